"""The invariant monitor: what it tells and keeps, what it costs, and that nothing in it stops anybody."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from slurmext.config.wire import snapshot_from_json
from slurmext.daemon.monitor import KEPT_FILES, MOST_EVENTS, Monitor
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Plan
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.invariants.over_time import Look
from slurmext.testing.memory_store import MemoryStore
from tests.waiting import until


def running(job_id: str) -> Job:
    placement = (NodeGpus(node="n1", gpus=8),)
    return Job(id=job_id, queue="prod", state=JobState.RUNNING, gpus_per_task=8, placement=placement, started_s=0)


def look(now_s: float, *jobs: Job) -> Look:
    """A cluster of one node with 8 GPUs."""
    nodes, queues = (Node(name="n1", gpus=8),), (Queue(path="prod", guaranteed=8),)
    return Look(
        snapshot=Snapshot(now_s=now_s, nodes=nodes, queues=queues, jobs=jobs),
        plan=Plan(),
        running={job.id: job.started_s for job in jobs},
        told=(),
    )


GOOD, BAD = look(1, running("a")), look(2, running("a"), running("b"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def monitor(store: MemoryStore, tmp_path: Path) -> Monitor:
    return Monitor(store, tmp_path / "invariants")


def test_a_broken_law_is_an_event_with_a_snapshot_to_replay(monitor: Monitor, store: MemoryStore) -> None:
    """Kind `invariant`, the law, what breaks it, and a file that only root reads."""
    assert monitor.check(GOOD) == []
    assert store.events() == []
    monitor.check(BAD)
    (event,) = store.events()
    assert event.kind == "invariant"
    assert event.message == "no overcommit in reality: n1: 16 GPUs in use of 8"
    saved = Path(str(event.detail["snapshot"]))
    assert snapshot_from_json(saved.read_bytes()) == BAD.snapshot
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    status = monitor.status()
    assert (status["checked"], status["broken"]) == (2, 1)
    assert status["last"] == {"at_s": 2.0, "law": "no overcommit in reality", "snapshot": str(saved)}


def test_what_stays_broken_is_told_once(monitor: Monitor, store: MemoryStore) -> None:
    """And again when it was well in between."""
    for at_s, jobs in ((2, "ab"), (3, "ab"), (4, "a"), (5, "ab")):
        monitor.check(look(at_s, *map(running, jobs)))
    assert len(store.events()) == monitor.status()["broken"] == 2


def test_files_and_events_are_bounded(monitor: Monitor, store: MemoryStore, tmp_path: Path) -> None:
    """The newest snapshots stay, each with its plan; so many events an hour, and more only counted."""
    times = range(0, 2 * (MOST_EVENTS + 20), 2)
    for at_s in times:
        monitor.check(look(at_s, running("a"), running("b")))
        monitor.check(look(at_s + 1, running("a")))
    assert monitor.status()["broken"] == len(times)
    assert len(store.events(limit=10_000)) == MOST_EVENTS
    names = sorted(path.name for path in (tmp_path / "invariants").iterdir())
    assert len(names) == 2 * KEPT_FILES
    assert f"{float(times[-1]):014.3f}.snapshot.json" in names
    assert f"{float(times[-1]):014.3f}.plan.json" in names


def test_it_checks_beside_the_daemon_and_survives_a_check_that_fails(monitor: Monitor, store: MemoryStore) -> None:
    """A look that nothing can be made of is logged; the next one is checked."""
    monitor.start()
    monitor.see(replace(BAD, snapshot=None))  # type: ignore[arg-type]
    monitor.see(BAD)
    until(store.events)
    monitor.stop()
    assert len(store.events()) == 1


def test_looks_that_come_too_fast_are_skipped(monitor: Monitor) -> None:
    """Nobody takes them here: the daemon never waits, and what was not checked is counted."""
    for _ in range(20):
        monitor.see(GOOD)
    assert monitor.status()["skipped"] == 20 - 8


def test_a_folder_that_cannot_be_written_loses_the_file_only(store: MemoryStore) -> None:
    """The event says so."""
    monitor = Monitor(store, Path("/proc/nowhere"))
    monitor.check(BAD)
    assert [event.detail["snapshot"] for event in store.events()] == [None]
