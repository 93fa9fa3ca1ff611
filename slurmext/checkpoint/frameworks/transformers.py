"""The Hugging Face Trainer: it saves when the job is told to, in all ranks at the same step, and confirms.

    trainer = Trainer(..., callbacks=[SlurmextCallback()])
    trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))

The Trainer's own checkpoints are written and read. One that a killed job left half written is passed over.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from slurmext.checkpoint.checkpointer import Checkpointer
from slurmext.checkpoint.errors import write_error
from slurmext.checkpoint.frameworks.files import COMPLETE, mark_complete


class SlurmextCallback(TrainerCallback):
    """`every_s`: seconds between saves that nobody asked for; None leaves them to the Trainer's `save_steps`."""

    def __init__(self, *, every_s: float | None = None) -> None:
        self._every_s = every_s
        self._saver: Checkpointer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Listen from here on."""
        board = Path(args.output_dir) / ".slurmext"
        self._saver = Checkpointer({}, board, every_s=self._every_s, rank=args.process_index, world=args.world_size)
        self._saver.gate.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
        """Have the Trainer save when it is time."""
        if self._saver is not None and self._saver.due(state.global_step):
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """The Trainer has saved."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.process_index == 0 and folder.is_dir():
            mark_complete(folder)
        if self._saver is not None:
            self._saver.confirm(state.global_step, folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Stop listening."""
        if self._saver is not None:
            self._saver.close()


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest complete checkpoint, None when there is none: for `resume_from_checkpoint`.

    Raises CheckpointError for a directory in which one may not look.
    """
    try:
        found = [
            (int(match[1]), path)
            for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
            if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)) and (path / COMPLETE).exists()
        ]
    except OSError as error:
        raise write_error(Path(output_dir), error) from error
    return str(max(found)[1]) if found else None
