"""Checkpoints for a training job: save on a signal or now and then, resume where the newest good one left off.

    state = {"weights": weights, "step": 0, "rng": rng}
    ckpt = Checkpointer(state)
    start = ckpt.restore() or 0
    for step in range(start + 1, steps + 1):
        train(state)
        if ckpt.due(step):
            ckpt.save(step)

Stands alone: the standard library, NumPy when the state has arrays, xxhash when it is there. Imports nothing else of
the package; a job can use a copy of this folder.
"""

from slurmext.checkpoint.checkpointer import Checkpointer
from slurmext.checkpoint.errors import CheckpointError

__all__ = ["CheckpointError", "Checkpointer"]
