"""The first blocks of a snapshot are written while the last ones are still being copied."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slurmext.checkpoint.engine import CheckpointError, Engine, buffers, folder, retention, snapshot, writer
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.progress import Progress
from slurmext.checkpoint.engine.stream import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCKS, FROZEN, COPIED = 12, 7, 10
"""Of a state: all, those that never change, and those that are copied before the copy stands still."""


class Copy:
    """A copy that stands still after COPIED blocks, until `awaited` blocks were written, or fails there."""

    def __init__(self) -> None:
        self.awaited, self.fails = 0, False
        self.numbers: list[int] = []
        """Of the blocks that were written, as they were."""
        self._go_on = threading.Event()
        self._copy, self._store = snapshot.Snapshot._copy, writer._Writer._store

    def copy(self, taken: snapshot.Snapshot, number: int) -> None:
        if number == COPIED:
            assert not self.awaited or self._go_on.wait(30)
            if self.fails:
                raise MemoryError("this page is gone")
        self._copy(taken, number)

    def store(self, one: writer._Writer, file: object, number: int, digest: str) -> None:
        self._store(one, file, number, digest)
        self.numbers.append(number)
        if len(self.numbers) == self.awaited:
            self._go_on.set()

    def save(self, engine: Engine, step: int, awaited: int) -> tuple[int, int]:
        """Blocks written before the copy was over, and all that were."""
        self.awaited, self.numbers = awaited, []
        self._go_on.clear()
        ticket = engine.save(step, state_of(step))
        ticket.result()
        engine.wait()
        return ticket.early_bytes // BLOCK, ticket.new_bytes // BLOCK


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Copy:
    copy = Copy()
    monkeypatch.setattr(writer, "WORTH_FOLLOWING", 0)
    monkeypatch.setattr(buffers, "SHARE", BLOCK)
    monkeypatch.setattr(snapshot.Snapshot, "_copy", lambda *args: copy.copy(*args))  # noqa: PLW0108 - a method of its own would not be given the snapshot
    monkeypatch.setattr(writer._Writer, "_store", lambda *args: copy.store(*args))  # noqa: PLW0108 - the same
    return copy


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path, copies=1, threads=1) as engine:
        yield engine


def state_of(step: int) -> dict[str, np.ndarray]:
    """A frozen array before one that moves, of whole blocks."""
    words = BLOCK // 8
    return {"frozen": np.arange(FROZEN * words), "moving": np.arange((BLOCKS - FROZEN) * words) * 2 + step}


def test_blocks_are_written_behind_the_copy(engine: Engine, held: Copy) -> None:
    """All that is copied of a first save; later only what changes in every save, so that nothing is written again that
    could be linked. What is restored is the state in any case.
    """
    early, new = held.save(engine, 1, awaited=COPIED)
    assert (early >= COPIED, new) == (True, BLOCKS)
    assert held.save(engine, 2, awaited=0) == (0, BLOCKS - FROZEN)
    early, new = held.save(engine, 3, awaited=COPIED - FROZEN)
    assert (early >= COPIED - FROZEN, new) == (True, BLOCKS - FROZEN)
    assert sorted(held.numbers) == list(range(FROZEN, BLOCKS))
    assert held.numbers[: COPIED - FROZEN] == list(range(FROZEN, COPIED))
    for saved in folder.saved_in(engine.directory):
        assert retention.verify(saved, Crew(1)) is None
    step, found = engine.restore()
    assert step == 3
    assert all((found[name] == array).all() for name, array in state_of(3).items())


def test_what_moves_no_more_is_linked_again(engine: Engine, held: Copy) -> None:
    """It is written once too often at most."""
    for step in (1, 2, 3):
        held.save(engine, step, awaited=0)
    held.save(engine, 3, awaited=COPIED - FROZEN)
    assert held.save(engine, 3, awaited=0) == (0, 0)


def test_a_copy_that_fails_costs_its_save_only(engine: Engine, held: Copy, capfd: pytest.CaptureFixture[str]) -> None:
    """The caller is told what happened, nothing of it stays, and the next save is as any."""
    held.fails, held.awaited = True, COPIED
    with pytest.raises(MemoryError):
        engine.save(1, state_of(1))
    engine.wait()
    assert "step 1 is not saved: the state could not be copied: this page is gone" in capfd.readouterr().err
    assert [path.name for path in engine.directory.iterdir() if path.suffix != ".lock"] == [".lock"]
    held.fails = False
    for step in (2, 3, 4):
        held.save(engine, step, awaited=0)
    assert engine.restore()[0] == 4
    assert engine.peak_snapshots <= 2


def test_who_follows_waits_for_every_part_before() -> None:
    """Parts are done in any order; the end, good or bad, wakes who waits."""
    progress = Progress()
    progress.done(1)
    waiting = threading.Thread(target=progress.wait, args=(2,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    progress.done(0)
    waiting.join(10)
    assert not waiting.is_alive()
    assert not progress.over
    progress.end(ValueError("no"))
    with pytest.raises(CheckpointError, match="could not be copied: no"):
        progress.wait()
