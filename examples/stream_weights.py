#!/usr/bin/env python3
"""Weights as they arrive: a layer can be used while the rest of the model is still on its way to the node.

    sbatch --preload=org/llama --ntasks-per-node=4 --wrap "RANKS=4 srun python3 examples/stream_weights.py org/llama"

Each task takes its part of the model, as a rank of tensor parallelism does, onto its GPU where there is one.
"""

from __future__ import annotations

import argparse
import os
import time

import torch

from slurmext.staging import Shard, stream


def main() -> None:
    """Say when which layer was there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="org/model, org/model@revision or a directory of safetensors")
    options = parser.parse_args()
    rank, world = int(os.environ.get("SLURM_LOCALID", "0")), int(os.environ.get("RANKS", "1"))
    begin_s, size = time.perf_counter(), 0
    device = "cuda" if torch.cuda.is_available() else None
    for name, tensor in stream(options.model, to=device, framework="torch", shard=Shard(rank=rank, world=world)):
        size += tensor.numel() * tensor.element_size()
        print(f"{time.perf_counter() - begin_s:8.3f} s  {size / 1e6:10.1f} MB  {name} {list(tensor.shape)}", flush=True)


if __name__ == "__main__":
    main()
