"""The Checkpointer: what a training script uses."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from slurmext.checkpoint import directory as disk
from slurmext.checkpoint import tree
from slurmext.checkpoint.confirm import confirm
from slurmext.checkpoint.errors import BadCheckpointError, CheckpointError
from slurmext.checkpoint.lock import DirectoryLock
from slurmext.checkpoint.signals import SignalFlag, wanted_signal

EVERY_S = 600.0


def default_directory() -> Path:
    """SLURMEXT_CKPT_DIR (`--ckpt-dir`), else slurmext-ckpt/<job id> where the job was submitted.

    The job id stays the same when Slurm requeues the job, so that the next run finds what this one saved.
    """
    if given := os.environ.get("SLURMEXT_CKPT_DIR"):
        return Path(given)
    return Path(os.environ.get("SLURM_SUBMIT_DIR") or ".", "slurmext-ckpt", os.environ.get("SLURM_JOB_ID") or "local")


class Checkpointer:
    """Saves and restores `state`, a dict of names to NumPy arrays, Generators and plain values (see `tree.pack`).

    `dir`: where (see `default_directory`); one process at a time may write there. `every_s`: seconds between saves
    without a signal, None for none. `keep`: checkpoints kept, the newest and older ones that were read back and found
    good (at least 2). `signals`: take the job's checkpoint signal.

    One process saves. In a step of several tasks that all hold the same state pass `replicated=True`: task 0 saves,
    the others restore and their `due` is always False. State that differs between tasks cannot be saved yet.
    Raises CheckpointError with what to do about it.
    """

    def __init__(
        self,
        state: MutableMapping[str, Any],
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the word users expect
        *,
        every_s: float | None = EVERY_S,
        keep: int = 2,
        signals: bool = True,
        replicated: bool = False,
    ) -> None:
        self.state = state
        self.directory = Path(dir if dir is not None else default_directory()).absolute()
        self._every_s = every_s
        self._keep = max(keep, 2)
        self._writes = _is_writer(replicated=replicated)
        self._lock: DirectoryLock | None = None
        self._verified: set[str] = set()
        self._last_save_s = time.monotonic()
        self._flag = SignalFlag(wanted_signal())
        if signals:
            self.install()

    def install(self) -> None:
        """Take the checkpoint signal from now on; the constructor does this already."""
        self._flag.install()

    def due(self, step: int | None = None) -> bool:  # noqa: ARG002 - ranks will agree on a step
        """Whether to save now: the signal came, or `every_s` seconds passed since the last save. Ask each step."""
        if not self._writes:
            return False
        if self._flag.received_s is not None:
            return True
        return self._every_s is not None and time.monotonic() - self._last_save_s >= self._every_s

    def save(self, step: int) -> Path | None:
        """Save the state after `step` finished steps; on disk when this returns. None in a task that does not save."""
        if not self._writes:
            return None
        self._hold()
        signalled = self._flag.received_s is not None
        saved, size_bytes = disk.write(self.directory, step, self.state)
        self._last_save_s = time.monotonic()
        if signalled:
            self._flag.clear()
        confirm(step=step, path=str(saved.path), size_bytes=size_bytes, on_signal=signalled)
        self._prune(saved)
        return saved.path

    def restore(self) -> int | None:
        """Load the newest good checkpoint into the state; returns its step, None when there is none.

        Arrays are filled in place. A damaged checkpoint is named on stderr and passed over, whatever is wrong with it.
        """
        if self._writes:
            self._hold()
        for saved in disk.saved_in(self.directory):
            try:
                value = disk.read(saved)
            except BadCheckpointError as error:
                _say(f"{saved.path} is damaged and not used: {error}")
                continue
            tree.check(self.state, value)
            tree.put(self.state, value)
            self._verified.add(saved.path.name)
            return saved.step
        return None

    def close(self) -> None:
        """Give up the directory and the signal."""
        self._flag.remove()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Checkpointer:  # noqa: PYI034  Self would need typing at run time
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hold(self) -> None:
        if self._lock is None:
            disk.make_directory(self.directory)
            self._lock = DirectoryLock(self.directory)
            disk.remove_leftovers(self.directory)

    def _prune(self, newest: disk.Saved) -> None:
        """Keep the newest and the newest older ones that can be read back; remove the rest only when those exist."""
        wanted = self._keep - 1
        older = [saved for saved in disk.saved_in(self.directory) if saved.serial < newest.serial]
        kept: list[disk.Saved] = []
        for saved in older:
            if len(kept) == wanted:
                break
            if self._is_good(saved):
                kept.append(saved)
        if len(kept) == wanted:
            names = {saved.path.name for saved in kept}
            for saved in older:
                if saved.path.name not in names:
                    disk.remove(saved)
                    self._verified.discard(saved.path.name)

    def _is_good(self, saved: disk.Saved) -> bool:
        if saved.path.name not in self._verified:
            try:
                disk.verify(saved)
            except CheckpointError as error:
                _say(f"{saved.path} is damaged: {error}")
                return False
            self._verified.add(saved.path.name)
        return True


def _is_writer(*, replicated: bool) -> bool:
    tasks = max(_number("WORLD_SIZE"), _number("SLURM_STEP_NUM_TASKS"))
    if tasks <= 1:
        return True
    if not replicated:
        raise CheckpointError(
            f"this step has {tasks} tasks and one Checkpointer saves for all: if every task holds the same state "
            "pass replicated=True, else gather the state in one task and use the Checkpointer in a step of one task"
        )
    return (_number("RANK") if "RANK" in os.environ else _number("SLURM_PROCID")) == 0


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0


def _say(text: str) -> None:
    sys.stderr.write(f"slurmext.checkpoint: {text}\n")
