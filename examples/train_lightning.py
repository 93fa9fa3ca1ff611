#!/usr/bin/env python3
"""A small Lightning module that can be preempted.

sbatch --ckpt=auto --wrap "python3 examples/train_lightning.py --epochs 20"
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from slurmext.checkpoint import CheckpointError
from slurmext.checkpoint.frameworks.lightning import SlurmextCallback


class Line(pl.LightningModule):
    """Fits a line."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.layer, self.pause_s = torch.nn.Linear(8, 1), pause_s

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Mean squared error."""
        time.sleep(self.pause_s)
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[0].sum(1, keepdim=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main() -> int:
    """Train, saving when told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--step-time", type=float, default=0.0, metavar="S", help="make each step last longer")
    parser.add_argument("--dir", help="checkpoint directory [--ckpt-dir of the job]")
    options = parser.parse_args()

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(5, verbose=False)
    loader = DataLoader(TensorDataset(torch.randn(128, 8)), 8)
    ckpt = SlurmextCallback(options.dir)
    trainer = pl.Trainer(
        max_epochs=options.epochs, callbacks=[ckpt], accelerator="auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = Line(options.step_time)
    print(f"resumed from {ckpt.last}" if ckpt.last else "started", flush=True)
    trainer.fit(module, loader, ckpt_path=ckpt.last)
    print(f"final step {trainer.global_step} weights {float(module.layer.weight.sum())!r}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CheckpointError as problem:
        sys.exit(f"train_lightning: {problem}")
