"""Which checkpoints stay: the newest ones, and always one older that was read back and found good."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from slurmext.checkpoint.engine import folder, reader
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.errors import BadCheckpointError, CheckpointError
from slurmext.checkpoint.engine.folder import Saved


def to_verify(directory: Path, keep: int, bad: Collection[str]) -> list[Saved]:
    """What has to be read back before anything may be removed: the older ones to be kept. The very first at once."""
    every = folder.saved_in(directory)
    older = [saved for saved in every[1:] if saved.path.name not in bad]
    if len(every) == 1:
        older = every
    elif len(every) <= keep:
        return []
    return [saved for saved in older[: keep - 1] if not saved.verified]


def too_many(directory: Path, keep: int) -> bool:
    """Whether so many are there that verifying must not be put off again."""
    return len(folder.saved_in(directory)) > keep + 1


def verify(
    saved: Saved, crew: Crew, *, share: tuple[int, int] = (0, 1), enough: Callable[[], bool] = lambda: False
) -> str | None:
    """What is wrong with a checkpoint, None when all bytes are as written. `share`, `enough`: see `reader.check`."""
    try:
        reader.check(saved.path, saved.manifest(), crew, share=share, enough=enough)
    except BadCheckpointError as error:
        return str(error)
    return None


def prune(directory: Path, keep: int, bad: Collection[str]) -> list[Saved]:
    """Remove what is neither among the `keep` newest good ones nor needed as the older verified one; returns it.

    Nothing goes before one of the older kept ones was verified.
    """
    every = folder.saved_in(directory)
    kept = [saved for saved in every[1:] if saved.path.name not in bad][: keep - 1]
    if not any(saved.verified for saved in kept):
        return []
    names = {saved.path.name for saved in (*every[:1], *kept)}
    gone = [saved for saved in every if saved.path.name not in names]
    for saved in gone:
        folder.remove(saved)
    return gone


def settle(directory: Path, keep: int, good: Iterable[Saved], damage: dict[str, str], bad: set[str]) -> None:
    """Enter what verifying found, name the damaged, remove what may go."""
    for saved in good:
        folder.mark_verified(saved)
    for name, what in damage.items():
        say(f"{directory / name} is damaged: {what}")
        bad.add(name)
    prune(directory, keep, bad)


def say(text: str) -> None:
    """A line for the user."""
    sys.stderr.write(f"slurmext.checkpoint: {text}\n")


__all__ = ["CheckpointError", "prune", "settle", "to_verify", "too_many", "verify"]
