"""Copies of checkpoints in the agent's memory, and on another node's agent."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slurmext.agent.copies import peers
from slurmext.agent.copies.store import CopyStore, NoRoomError
from slurmext.checkpoint import Checkpointer
from slurmext.checkpoint.tiers import Tiers
from slurmext.errors import SlurmextError
from tests.unit.agent.conftest import JOB, environment, start_job
from tests.unit.agent.copies import in_both_ranks, put, told
from tests.waiting import until

NAME = "save-00000001-step-7"


@pytest.fixture
def store(tmp_path: Path) -> CopyStore:
    return CopyStore(tmp_path / "copies", user_bytes=100, all_bytes=150, keep_s=60)


def test_a_user_keeps_no_more_than_its_share(store: CopyStore) -> None:
    """Older copies of the user's make room, other users' never do, and what never fits is refused."""
    put(store, 1, 1000, NAME, "rank-00000.bin", 60)
    put(store, 2, 1001, NAME, "rank-00000.bin", 60)
    put(store, 3, 1000, NAME, "rank-00000.bin", 60)
    assert [kept.size for kept in store.files(3, 1000)] == [60]
    assert store.files(1, 1000) == []
    assert [kept.size for kept in store.files(2, 1001)] == [60]
    with pytest.raises(NoRoomError, match="this user's"):
        store.place(4, 1000, NAME, "rank-00000.bin", 101)
    assert store.files(3, 1000) == [], "room was made as far as it went"


def test_two_checkpoints_of_a_job_stay(store: CopyStore) -> None:
    """A third, once whole, replaces the oldest; without its manifest it is not whole."""
    names = [f"save-0000000{number}-step-{number}" for number in (1, 2, 3)]
    for name in names:
        put(store, 1, 1000, name, "rank-00000.bin", 5)
        if name != names[2]:
            put(store, 1, 1000, name, "manifest.json", 5)
    assert {kept.name for kept in store.files(1, 1000)} == set(names)
    put(store, 1, 1000, names[2], "manifest.json", 5)
    assert [kept.name for kept in store.files(1, 1000)] == [names[2], names[2], names[1], names[1]]


@pytest.mark.parametrize(("name", "file"), [("../x", "a"), (NAME, "../../etc"), (NAME, ""), ("save-1-step-2", "a")])
def test_names_lead_nowhere_else(store: CopyStore, name: str, file: str) -> None:
    """What a job calls its files is never a way out of the folder."""
    with pytest.raises(SlurmextError):
        store.place(1, 1000, name, file, 1)


def test_what_no_job_needs_goes_after_a_while(store: CopyStore) -> None:
    """Of a job that runs here it stays however old it is."""
    put(store, 1, 1000, NAME, "manifest.json", 5)
    assert store.expire(set(), time.time()) == []
    assert store.expire({1}, time.time() + 1000) == []
    assert store.expire(set(), time.time() + 1000) == [(1, NAME)]
    assert store.files(1, 1000) == []


def test_a_checkpoint_comes_back_from_memory_when_its_directory_is_gone(
    agent: Any, folder: Path, tmp_path: Path
) -> None:
    """The library offers, the agent copies; the next run gets it back bit for bit, and brings it to disk again."""
    weights = np.random.default_rng(1).normal(size=300_000)
    with Checkpointer({"w": weights.copy(), "n": 5}, tmp_path / "c", signals=False) as ckpt:
        assert ckpt.restore() is None
        path = ckpt.save(7)
    until(lambda: len(agent.copies.store.files(JOB, os.geteuid())) >= 2)
    assert path is not None
    (tmp_path / "c").rename(tmp_path / "lost")
    state = {"w": np.zeros(300_000), "n": 0}
    with Checkpointer(state, tmp_path / "c", signals=False) as again:
        assert again.has_saved()
        assert again.restore() == 7
    assert (state["w"] == weights).all()
    assert state["n"] == 5
    assert (tmp_path / "c" / path.name / "manifest.json").exists(), "it was brought to disk in the background"
    start_job(folder, JOB, os.geteuid(), restarts=1)
    assert Tiers(environment(agent, JOB)).any(), "a requeued job keeps its copies"
    start_job(folder, JOB, os.geteuid())
    assert not Tiers(environment(agent, JOB)).any(), "a new job of that id does not get another's"


def test_copies_are_for_the_jobs_own_user(new_agent: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither may another user bring files, nor fetch them."""
    agent = new_agent()
    start_job(folder, JOB, 4321)
    tiers = Tiers(environment(agent, JOB))
    assert tiers.places() == []
    assert "is not a job of uid" in capsys.readouterr().err


def test_several_ranks_of_a_node_come_back_from_memory_and_the_directory_gets_all_of_it(
    agent: Any, folder: Path, tmp_path: Path
) -> None:
    """One of them brings the checkpoint of all to the new disk, and says how far it is."""
    found: dict[int, tuple[int | None, float]] = {}

    def run(rank: int, *, save: bool) -> None:
        state = {"w": np.full(1000, float(rank + 1) if save else 0.0)}
        with Checkpointer(state, tmp_path / "c", rank=rank, world=2, signals=False, every_s=None) as ckpt:
            found[rank] = ckpt.restore(), float(state["w"][0])
            if save:
                ckpt.save(7)

    in_both_ranks(lambda rank: run(rank, save=True))
    until(lambda: len(agent.copies.store.files(JOB, os.geteuid())) >= 3)
    (tmp_path / "c").rename(tmp_path / "lost")
    in_both_ranks(lambda rank: run(rank, save=False))
    assert found == {0: (7, 1.0), 1: (7, 2.0)}
    (path,) = (tmp_path / "c").glob("save-*")
    assert {file.name for file in path.iterdir()} >= {
        file.name for file in (tmp_path / "lost" / path.name).iterdir()
    } - {"verified"}
    (drained,) = [event for event in told(folder) if event["tier"] == "directory"]
    assert drained["done_bytes"] == drained["size_bytes"] == sum(file.stat().st_size for file in path.iterdir())


def test_what_a_node_has_of_a_few_ranks_only_is_not_brought_anywhere(tmp_path: Path) -> None:
    """Without the files of all ranks it would be no checkpoint."""
    with Checkpointer({"w": np.zeros(100)}, tmp_path / "c", signals=False) as ckpt:
        path = ckpt.save(7)
    assert path is not None
    copies = Tiers({})
    copies._folder = tmp_path / "copies"
    (copies._folder / path.name).mkdir(parents=True)
    (copies._folder / path.name / "manifest.json").write_bytes((path / "manifest.json").read_bytes())
    copies.restored(tmp_path / "other", 7, leads=True)
    assert copies.drain is None


def test_a_file_that_cannot_be_copied_keeps_no_other_from_it(agent: Any, tmp_path: Path) -> None:
    """Whatever went wrong with it: a user's later checkpoints are copied."""
    calls = iter(range(10))
    place = agent.copies.store.place

    def fail_once(*where: Any, **how: Any) -> Path:
        if next(calls) == 0:
            raise ValueError("nobody foresaw this")
        return place(*where, **how)

    agent.copies.store.place = fail_once
    (tmp_path / "file").write_bytes(b"x")
    with (tmp_path / "file").open("rb") as file:
        for number in (1, 2):
            agent.copies.keep(
                JOB, os.geteuid(), f"save-0000000{number}-step-{number}", ["rank-00000.bin"], [file.fileno()]
            )
    until(lambda: [kept.name for kept in agent.copies.store.files(JOB, os.geteuid())] == ["save-00000002-step-2"])


def test_a_stranger_who_speaks_slowly_is_hung_up_on(new_agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """He would hold one of the few places that agents have at each other."""
    monkeypatch.setattr(peers, "HANDSHAKE_S", 0.5)
    agent = new_agent()
    with socket.create_connection(("127.0.0.1", agent.copies.port), timeout=20) as connection:
        assert b"nonce" in connection.recv(4096)
        until(lambda: hung_up(connection), 20)


def hung_up(connection: socket.socket) -> bool:
    """Whether one more byte is answered by the end of the connection."""
    try:
        connection.send(b"[")
        return bool(select.select([connection], [], [], 0)[0])
    except OSError:
        return True
