"""Lightning: it saves when the job is told to, in all ranks at the same step, and confirms.

    ckpt = SlurmextCallback("/scratch/run7")
    trainer = Trainer(callbacks=[ckpt], plugins=[SLURMEnvironment(auto_requeue=False)])
    trainer.fit(model, loader, ckpt_path=ckpt.last)

Lightning's own checkpoint files are written, next to their place and then renamed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from slurmext.checkpoint.checkpointer import AUTO, Checkpointer
from slurmext.checkpoint.directory import default_directory
from slurmext.checkpoint.engine.folder import make_directory
from slurmext.checkpoint.frameworks.files import replace_file

NAME = "last.ckpt"


class SlurmextCallback(Callback):
    """`dir`: as of `Checkpointer`. `last`: the newest checkpoint's path, None when there is none."""

    def __init__(self, dir: str | os.PathLike[str] | None = None, *, every_s: float | str | None = AUTO) -> None:  # noqa: A002
        self._directory = Path(dir if dir is not None else default_directory()).absolute()
        self._every_s = every_s
        self._saver: Checkpointer | None = None

    @property
    def last(self) -> str | None:
        """For `Trainer.fit(ckpt_path=...)`."""
        path = self._directory / NAME
        # Where one may not look, `on_fit_start` says so.
        return str(path) if os.path.exists(path) else None  # noqa: PTH110

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Listen from here on."""
        make_directory(self._directory)
        self._saver = Checkpointer(
            {}, self._directory, every_s=self._every_s, rank=trainer.global_rank, world=trainer.world_size
        )
        self._saver.gate.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save when it is time."""
        if self._saver is not None and self._saver.due(trainer.global_step):
            self._save(trainer, self._saver)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: ARG002
        """Stop listening."""
        if self._saver is not None:
            self._saver.close()
            self._saver = None

    def _save(self, trainer: Trainer, saver: Checkpointer) -> None:
        draft, final = self._directory / ".new.ckpt", self._directory / NAME
        trainer.save_checkpoint(draft)  # all ranks: strategies gather
        if trainer.is_global_zero and draft.is_file():
            replace_file(draft, final)
        trainer.strategy.barrier("slurmext")
        saver.confirm(trainer.global_step, final)
