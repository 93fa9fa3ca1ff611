"""When a save goes to memory, and when a signal or another rank makes one on disk of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from slurmext.checkpoint.aside import Aside
from slurmext.checkpoint.board import Board
from slurmext.checkpoint.engine import Engine
from slurmext.checkpoint.engine.memory import Handed
from slurmext.checkpoint.errors import CheckpointError
from slurmext.checkpoint.gate import NEVER, Gate
from slurmext.checkpoint.memory import VARIABLE, wanted_every_s
from slurmext.checkpoint.pilot import Pilot
from slurmext.checkpoint.ranks import Place
from slurmext.checkpoint.reasons import MEMORY, REQUEST, SIGNAL, TERM, TIME, Reason
from slurmext.checkpoint.signals import Listener
from tests.waiting import until


class Held:
    """A keeper of the test's: `kept` are (checkpoint, file, content); it does what `when` does first."""

    def __init__(self, when: Callable[[], object] = lambda: None) -> None:
        self.kept: list[tuple[str, str, bytes]] = []
        self._when = when

    def keep(self, name: str, handed: Handed, enough: Callable[[], bool]) -> None:
        del enough
        self._when()
        self.kept.append((name, handed.file, bytes(handed.content)))

    def gather(self, name: str, files: Sequence[str]) -> None:
        """There is nobody else."""


def test_what_one_rank_does_not_get_kept_is_no_checkpoint(tmp_path: Path) -> None:
    """No rank hands a manifest over then, and all of them know."""

    def refuse() -> None:
        raise CheckpointError("no room")

    keepers, errors = (Held(), Held(refuse)), dict[int, str]()

    def run(rank: int) -> None:
        with Engine(tmp_path, rank=rank, world=2, keeper=keepers[rank]) as engine:
            try:
                engine.save_to_memory(7, {"w": np.ones(1000)}).result(30)
            except CheckpointError as error:
                errors[rank] = str(error)

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(60)
    assert errors == {0: "rank 1: no room", 1: "rank 1: no room"}
    assert [file.partition("-")[0] for _, file, _ in keepers[0].kept] == ["rank"]


def test_saves_are_numbered_as_they_are_made(tmp_path: Path) -> None:
    """One that is on disk before an earlier one is in memory is still the later one, and the other way round."""
    on_disk = threading.Event()
    keeper = Held(lambda: on_disk.wait(30))
    with Engine(tmp_path, keeper=keeper) as engine:
        memory = engine.save_to_memory(1, {"w": np.ones(1000)})
        path = engine.save(2, {"w": np.ones(1000)}).result(30)
        on_disk.set()
        memory.result(30)
        engine.save_to_memory(3, {"w": np.ones(1000)}).result(30)
    assert path.name == "save-00000002-step-2"
    assert list(dict.fromkeys(name for name, _, _ in keeper.kept)) == ["save-00000001-step-1", "save-00000003-step-3"]
    assert [file for _, file, _ in keeper.kept][1::2] == ["manifest.json", "manifest.json"]


def test_what_was_handed_over_is_a_checkpoint_like_any(tmp_path: Path) -> None:
    """Written to files as it is, it restores bit for bit."""
    keeper, weights = Held(), np.random.default_rng(1).normal(size=1_000_000)
    with Engine(tmp_path / "a", keeper=keeper) as engine:
        engine.save_to_memory(7, {"w": weights, "n": 3}).result(30)
    for name, file, content in keeper.kept:
        (tmp_path / "b" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name / file).write_bytes(content)
    state = {"w": np.zeros(1_000_000), "n": 0}
    with Engine(tmp_path / "c", tiers=[tmp_path / "b"]) as engine:
        found = engine.restore(state)
    assert found is not None
    assert (found[0], found[1]["n"]) == (7, 3)
    assert (state["w"] == weights).all()


def new_pilot(gate: Gate, listener: Listener, taken: list[tuple[int, Reason]], board: Board | None = None) -> Pilot:
    def take(step: int, reason: Reason) -> object:
        taken.append((step, reason))
        return lambda: None

    place = Place(rank=0, world=1 if board is None else 3)
    return Pilot(gate, place, board, listener, take=take, every_s=lambda: None)  # type: ignore[arg-type]


def test_a_signal_that_comes_while_memory_is_saved_to_is_answered_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is heard while the step is awaited that the save in memory is for, and does not end with that."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    gate, listener, taken = Gate(5), Listener({signal.SIGUSR1}), list[tuple[int, Reason]]()
    listener.install()
    pilot = new_pilot(gate, listener, taken)
    pilot.schedule.memory_every_s = lambda: None if taken else 0.0
    try:
        pilot.start()
        until(lambda: gate.stop_at != NEVER)
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: signal.SIGUSR1 in pilot._heard)
        gate.boundary(6)
        until(lambda: len(taken) == 2)
    finally:
        pilot.close()
        listener.remove()
    assert taken == [(6, MEMORY), (6, SIGNAL)]


@pytest.mark.parametrize(
    ("reasons", "found"),
    [
        ((MEMORY, MEMORY, MEMORY), MEMORY),
        ((MEMORY, SIGNAL, MEMORY), SIGNAL),
        ((MEMORY, REQUEST, TERM), TERM),
        ((TIME, TIME, MEMORY), TIME),
    ],
)
def test_all_ranks_save_to_the_same_place(tmp_path: Path, reasons: tuple[Reason, ...], found: Reason) -> None:
    """To memory only when none has a reason for more."""
    boards = [Board(tmp_path, run="x", rank=rank) for rank in range(3)]
    for rank, (board, reason) in enumerate(zip(boards, reasons, strict=True)):
        board.promise(1, 7 + rank, reason)
    pilot = new_pilot(Gate(), Listener(()), [], boards[0])
    pilot._number, pilot.reason = 1, reasons[0]
    assert pilot._decision() == 9
    assert boards[0].decided() == (1, 9, found)
    assert (pilot.reason == MEMORY) == (found == MEMORY)


def test_the_pilot_hears_while_a_save_on_disk_is_seen_through() -> None:
    """With saves in memory one that nobody asked for is finished beside it, and the next may be made meanwhile."""
    gate, taken, written = Gate(5, quiet=True), list[tuple[int, Reason]](), threading.Event()
    listener = Listener(())

    def take(step: int, reason: Reason) -> object:
        taken.append((step, reason))
        return lambda: None if reason == MEMORY else written.wait()

    pilot = Pilot(gate, Place(rank=0, world=1), None, listener, take=take, every_s=lambda: None)  # type: ignore[arg-type]
    pilot.aside = Aside()
    pilot.schedule.memory_every_s = lambda: 0.0 if len(taken) == 1 else None
    try:
        pilot.start()
        pilot.ask()
        until(lambda: len(taken) == 2)
        assert not written.is_set()
    finally:
        written.set()
        pilot.close()
    assert taken == [(5, REQUEST), (5, MEMORY)]


def test_how_often_is_given_or_in_the_environment() -> None:
    """What is given counts more; nonsense is named."""
    assert wanted_every_s(None, {}) is None
    assert wanted_every_s(None, {VARIABLE: ""}) is None
    assert wanted_every_s(None, {VARIABLE: "30"}) == 30.0
    assert wanted_every_s(7, {VARIABLE: "30"}) == 7.0
    assert wanted_every_s("auto", {}) == "auto"
    for value in ("soon", "0", "-1", "inf", "nan"):
        with pytest.raises(CheckpointError, match=f"{VARIABLE}={value}: give seconds"):
            wanted_every_s(None, {VARIABLE: value})
