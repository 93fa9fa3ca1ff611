#!/usr/bin/env python3
"""Text from a model that was there before the job began: its weights are mapped from the node's memory.

    sbatch --preload=org/llama -N8 --ntasks-per-node=1 --wrap "srun python3 examples/generate_transformers.py org/llama"

Where staging failed it reads the model from storage, and says so.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from slurmext.staging.frameworks.transformers import from_pretrained


def main() -> None:
    """Load, generate, say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="org/model or org/model@revision")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--tokens", type=int, default=20)
    options = parser.parse_args()
    begin_s = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = from_pretrained(AutoModelForCausalLM, options.model, dtype="auto").to(device).eval()
    tokenizer = from_pretrained(AutoTokenizer, options.model)
    loaded_s = time.perf_counter()
    words = tokenizer(options.prompt, return_tensors="pt").input_ids.to(device)
    with torch.no_grad():
        answer = model.generate(words, max_new_tokens=options.tokens, do_sample=False)
    ended_s = time.perf_counter()
    print(f"{os.environ.get('SLURMD_NODENAME', 'here')}: {tokenizer.decode(answer[0])}")
    print(f"loaded in {loaded_s - begin_s:.2f} s, generated in {ended_s - loaded_s:.2f} s")


if __name__ == "__main__":
    main()
