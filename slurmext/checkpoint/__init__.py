"""Checkpoints for a training job: save on a signal or now and then, resume where the newest good one left off.

PyTorch, one line:

    ckpt = slurmext.checkpoint.attach(model, optimizer, scheduler, loader)

Any program:

    state = {"weights": weights, "step": 0, "rng": rng}
    ckpt = Checkpointer(state)
    start = ckpt.restore() or 0
    for step in range(start + 1, steps + 1):
        train(state)
        if ckpt.due(step):
            ckpt.save(step)

Stands alone: the standard library; NumPy, PyTorch, JAX and xxhash when the program has them. Imports nothing else of
the package; a job can use a copy of this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slurmext.checkpoint.checkpointer import Checkpointer
from slurmext.checkpoint.engine import Sharded
from slurmext.checkpoint.errors import CheckpointError

if TYPE_CHECKING:
    from slurmext.checkpoint.frameworks.torch import Attached

__all__ = ["CheckpointError", "Checkpointer", "Sharded", "attach"]


def attach(model: Any, optimizer: Any = None, scheduler: Any = None, loader: Any = None, **options: Any) -> Attached:
    """Checkpoints for a PyTorch training loop; see `slurmext.checkpoint.frameworks.torch.attach`."""
    from slurmext.checkpoint.frameworks import torch

    return torch.attach(model, optimizer, scheduler, loader, **options)
