"""Saves in the agent's memory between those in the checkpoint directory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slurmext.agent.copies.store import CopyStore, NoRoomError
from slurmext.checkpoint import Checkpointer
from tests.unit.agent.copies import in_both_ranks, put, told
from tests.waiting import until

ARRAY = 200_000


def new_state() -> dict[str, Any]:
    return {"w": np.zeros(ARRAY), "n": 0}


def train(ckpt: Checkpointer, state: dict[str, Any], step: int, enough: Callable[[], object]) -> int:
    """Steps from `step` on, saving when it is due, until `enough`; the last step."""
    end_s = time.monotonic() + 20
    while not enough():
        assert time.monotonic() < end_s
        step += 1
        state["w"] += 1.0
        state["n"] = step
        if ckpt.due(step):
            ckpt.save(step)
        time.sleep(0.001)
    return step


def test_a_run_goes_on_from_a_save_in_memory(agent: Any, tmp_path: Path) -> None:
    """What was saved after the last checkpoint on disk is not lost, and it becomes durable in the background."""
    state = new_state()
    with Checkpointer(state, tmp_path / "c", every_s=None, signals=False, memory_every_s=0.05) as ckpt:
        assert ckpt.restore() is None
        train(ckpt, state, 0, lambda: (ckpt.memory.kept_step or 0) > 3)
        kept = ckpt.memory.kept_step or 0
    assert not list((tmp_path / "c").glob("save-*")), "nothing was written"
    fresh = new_state()
    with Checkpointer(fresh, tmp_path / "c", every_s=None, signals=False, memory_every_s=60) as ckpt:
        step = ckpt.restore()
    assert step is not None
    assert step >= kept
    assert fresh["n"] == step
    assert (fresh["w"] == step).all()
    (durable,) = (tmp_path / "c").glob("save-*")
    assert durable.name.endswith(f"-step-{step}")


def test_the_site_hears_how_often_a_job_saves_in_memory(agent: Any, tmp_path: Path, folder: Path) -> None:
    """Once, with the first of them: no checkpoint in the directory has to say so."""
    state = new_state()
    with Checkpointer(state, tmp_path / "c", every_s=None, signals=False, memory_every_s=0.05) as ckpt:
        ckpt.restore()
        train(ckpt, state, 0, lambda: (ckpt.memory.kept_step or 0) > 3 and told(folder, "memory_saves"))
        step = ckpt.memory.kept_step or 0
        train(ckpt, state, state["n"], lambda: (ckpt.memory.kept_step or 0) > step)
    (said,) = told(folder, "memory_saves")
    assert said["cost"]["memory_every_s"] == 0.05
    assert said["cost"]["memory_cost_s"] > 0


def test_the_newest_of_memory_and_directory_is_restored(agent: Any, tmp_path: Path, folder: Path) -> None:
    """A save on disk after one in memory is the newer one, and how it got there is told."""
    state = new_state()
    with Checkpointer(state, tmp_path / "c", every_s=None, signals=False, memory_every_s=0.05) as ckpt:
        ckpt.restore()
        step = train(ckpt, state, 0, lambda: (ckpt.memory.kept_step or 0) > 1)
        state["n"] = step + 1
        assert ckpt.save(step + 1) is not None
    fresh = new_state()
    with Checkpointer(fresh, tmp_path / "c", every_s=None, signals=False) as ckpt:
        assert ckpt.restore() == step + 1
    until(lambda: any(event["tier"] == "directory" for event in told(folder)))
    last = [event for event in told(folder) if event["tier"] == "directory"][-1]
    assert last["done_bytes"] == last["size_bytes"]


def test_ranks_save_the_same_step_in_memory(agent: Any, tmp_path: Path) -> None:
    """Both ranks' parts are of one step, and without the manifest it would be none."""
    found: dict[int, tuple[int | None, float]] = {}

    def run(rank: int, *, save: bool) -> None:
        state = new_state()
        with Checkpointer(
            state, tmp_path / "c", rank=rank, world=2, signals=False, every_s=None, memory_every_s=0.05 if save else 60
        ) as ckpt:
            found[rank] = ckpt.restore() or 0, float(state["w"][0])
            if save:
                train(ckpt, state, 0, lambda: state["n"] > 3 and (ckpt.memory.kept_step or 0) > 0)

    in_both_ranks(lambda rank: run(rank, save=True))
    in_both_ranks(lambda rank: run(rank, save=False))
    assert found[0] == found[1]
    step, value = found[0]
    assert step is not None
    assert step > 0
    assert value == step


def test_a_rank_that_asks_for_more_gets_it_from_all(agent: Any, tmp_path: Path) -> None:
    """Whatever saves in memory are made at that time, by whose clock."""
    ended = threading.Barrier(2)
    steps: dict[int, list[int]] = {0: [], 1: []}

    def run(rank: int) -> None:
        state = new_state()
        with Checkpointer(
            state, tmp_path / "c", rank=rank, world=2, signals=False, every_s=None, memory_every_s=0.001
        ) as ckpt:
            step = ckpt.restore() or 0
            for _ in range(4):
                before = ckpt.saved_step
                if rank == 1:
                    ckpt.ask()
                step = train(ckpt, state, step, lambda before=before: ckpt.saved_step != before)
                steps[rank].append(ckpt.saved_step or 0)
            ended.wait(20)

    in_both_ranks(run)
    assert steps[0] == steps[1]
    assert len(steps[0]) == 4


def test_the_newest_in_memory_makes_no_room_before_the_next_is_whole(tmp_path: Path) -> None:
    """A save that is nowhere else is kept until the next one's manifest is there, also from other jobs of the user."""
    running: set[int] = {1, 2}
    store = CopyStore(tmp_path / "copies", user_bytes=100, all_bytes=1000, keep_s=60)
    store.alive = lambda: running
    for file in ("rank-0.bin", "manifest.json"):
        path = store.place(1, 1000, "save-00000001-step-7", file, 30, only=True)
        path.write_bytes(b"x" * 30)
        store.commit(1000, path)
    with pytest.raises(NoRoomError):
        store.place(1, 1000, "save-00000002-step-8", "rank-0.bin", 60, only=True)
    with pytest.raises(NoRoomError):
        store.place(2, 1000, "save-00000001-step-1", "rank-0.bin", 60)
    assert {kept.only for kept in store.files(1, 1000)} == {True}
    running.discard(1)
    put(store, 2, 1000, "save-00000001-step-1", "rank-0.bin", 60)
    assert store.files(1, 1000) == [], "its job is gone"


def test_without_room_it_is_said_once_and_saves_on_disk_go_on(
    agent: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when the agent is gone."""
    agent.copies.store._user_bytes = 1000
    state = new_state()
    with Checkpointer(state, tmp_path / "c", every_s=None, signals=False, memory_every_s=0.02) as ckpt:
        ckpt.restore()
        step = train(ckpt, state, 0, lambda: ckpt.memory.every_s() is None)
        agent.stop()
        ckpt.memory._not_before_s = 0.0
        ckpt.begin().wake()
        step = train(ckpt, state, step, lambda: ckpt.memory.every_s() is None)
        assert ckpt.save(step) is not None
    said = capsys.readouterr().err
    assert said.count("no saves in memory for now") == 1
    assert "do not fit into the memory kept for copies" in said


def test_a_save_on_disk_does_not_wait_for_one_in_memory(agent: Any, tmp_path: Path) -> None:
    """When both buffers are taken the one that is on its way to memory is given up."""
    state = new_state()
    with Checkpointer(state, tmp_path / "c", every_s=None, signals=False, memory_every_s=60) as ckpt:
        ckpt.restore()
        assert ckpt._engine is not None
        blocked = agent.copies.store._lock
        with blocked:  # the agent copies nothing
            first = ckpt._engine.save(1, state)
            memory = ckpt._engine.save_to_memory(2, state)
            second = ckpt._engine.save(3, state)
            third = ckpt._engine.save(4, state)
            for ticket in (first, second, third):
                ticket.result(20)
        with pytest.raises(Exception, match="a save to the directory came first"):
            memory.result(20)


def test_looking_at_what_is_there_bears_with_what_goes(tmp_path: Path) -> None:
    """Older checkpoints are removed at any moment; who asks how far a new one is must get an answer."""
    store = CopyStore(tmp_path / "copies", user_bytes=10_000, all_bytes=10_000, keep_s=60)
    stop, failed = threading.Event(), list[BaseException]()

    def look() -> None:
        try:
            while not stop.is_set():
                store.there_bytes(1, 1000)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 100):
        for file in ("rank-0.bin", "manifest.json"):
            put(store, 1, 1000, f"save-{number:08d}-step-7", file, 3)
    stop.set()
    thread.join(20)
    assert not failed
