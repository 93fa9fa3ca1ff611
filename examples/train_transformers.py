#!/usr/bin/env python3
"""A tiny language model trained by the Hugging Face Trainer that can be preempted.

sbatch --ckpt=auto --wrap "python3 examples/train_transformers.py --steps 200"
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from slurmext.checkpoint import CheckpointError
from slurmext.checkpoint.directory import default_directory
from slurmext.checkpoint.frameworks.transformers import SlurmextCallback, last_checkpoint


class Counting(Dataset):
    """Sentences that count."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The words, which are the labels as well."""
        time.sleep(self.pause_s)
        words = (torch.arange(16) * (index % 5 + 1) + index) % 64
        return {"input_ids": words, "labels": words}


def main() -> int:
    """Train, saving when told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--load-time", type=float, default=0.0, metavar="S", help="to load one sentence")
    parser.add_argument("--dir", help="checkpoint directory [--ckpt-dir of the job]")
    options = parser.parse_args()

    folder = options.dir or str(default_directory())
    last = last_checkpoint(folder)
    arguments = TrainingArguments(
        output_dir=folder, max_steps=options.steps, per_device_train_batch_size=4, save_strategy="no", seed=3,
        report_to=[], disable_tqdm=True, use_cpu=not torch.cuda.is_available(), logging_strategy="no",
    )  # fmt: skip
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Counting(options.load_time), callbacks=[SlurmextCallback()]
    )
    print(f"resumed from {last}" if last else "started", flush=True)
    trainer.train(resume_from_checkpoint=last)
    print(f"final weights {sum(float(p.detach().double().sum()) for p in model.parameters())!r}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CheckpointError as problem:
        sys.exit(f"train_transformers: {problem}")
