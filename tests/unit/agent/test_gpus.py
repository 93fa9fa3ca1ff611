"""What an agent tells of the GPUs of its jobs: little, in time, and nothing it does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmext.agent.gpus import GpuWatch, numbers_in
from slurmext.agent.jobs import JobTable, RunningJob
from slurmext.agent.spool import EventSpool
from slurmext.model.gpu import GpuDevice, GpuSample

SAMPLE_S = 10


class FakeDriver:
    """GPUs whose utilisation a test sets; `lost` ones cannot be read."""

    def __init__(self) -> None:
        self.percent: dict[int, float] = {}
        self.memory_mib = 100
        self.lost: set[int] = set()
        self.released = 0
        self.index_of: dict[int, int] = {}
        self.pids: dict[int, tuple[int, ...]] = {}

    def inventory(self) -> tuple[GpuDevice, ...]:
        return ()

    def sample(self) -> tuple[GpuSample, ...]:
        return tuple(
            GpuSample(
                minor=minor,
                index=self.index_of.get(minor, minor),
                mean_percent=self.percent.get(minor, 0) / 2,
                peak_percent=self.percent.get(minor, 0),
                memory_mib=self.memory_mib,
                pids=self.pids.get(minor, ()),
            )
            for minor in range(4)
            if minor not in self.lost
        )

    def release(self) -> None:
        self.released += 1


class Bench:
    """A watch with a clock of its own: `pass_s` lets time pass and looks every sample."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.driver = FakeDriver()
        self.now_s = 1000.0
        self.jobs = JobTable(folder / "jobs")
        self.events = EventSpool(folder / "events", "n1")
        self.restart()

    def restart(self) -> None:
        self.watch = GpuWatch(
            jobs=self.jobs, events=self.events, driver=self.driver, memory=self.folder / "gpus", sample_s=SAMPLE_S,
            busy_percent=5, now=lambda: self.now_s, job_of=lambda pid: pid // 100,
        )  # fmt: skip

    def run(self, job_id: int, gpus: str = "0,1") -> None:
        self.jobs.start(RunningJob(job_id=job_id, uid=1000, started_s=self.now_s, gpus=gpus))

    def pass_s(self, seconds: float) -> None:
        for _ in range(int(seconds / SAMPLE_S)):
            self.now_s += SAMPLE_S
            self.watch.look()

    def told(self) -> list[dict[str, Any]]:
        """What was reported since the last call."""
        found = []
        while head := self.events.head():
            found.append(json.loads(head[1]))
            self.events.acknowledged(head[0])
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    return Bench(tmp_path)


def states(events: list[dict[str, Any]]) -> list[tuple[str, float | None]]:
    return [(event["state"], event["idle_since_s"]) for event in events]


def test_a_working_job_is_told_once(bench: Bench) -> None:
    """A minute after its start, with what it used; then nothing for half an hour."""
    bench.driver.percent = {0: 80, 1: 40}
    bench.run(7)
    bench.pass_s(600)
    (event,) = bench.told()
    assert (event["event"], event["job_id"], event["state"], event["at_s"]) == ("gpu_activity", 7, "working", 1060)
    assert (event["gpus"], event["mean_percent"], event["peak_memory_mib"]) == (2, 30.0, 100)
    bench.pass_s(1300)
    assert len(bench.told()) == 1


def test_a_job_that_never_worked_idles_since_its_start(bench: Bench) -> None:
    """The first report comes after a minute and names the start."""
    bench.run(7)
    bench.pass_s(50)
    assert bench.told() == []
    bench.pass_s(10)
    assert states(bench.told()) == [("idle", 1000)]


def test_a_job_that_stops_working_idles_since_the_last_look_that_saw_work(bench: Bench) -> None:
    """It is reported after a minute, confirmed every minute, and taken back at once when it works."""
    bench.driver.percent = {0: 0, 1: 90}
    bench.run(7)
    bench.pass_s(120)
    bench.driver.percent = {}
    bench.told()
    bench.pass_s(180)
    events = bench.told()
    assert states(events) == [("idle", 1120)] * 3
    assert [event["changed"] for event in events] == [True, False, False]
    assert [event["at_s"] for event in events] == [1180, 1240, 1300]
    assert {event["valid_s"] for event in events} == {180}
    bench.driver.percent = {1: 6}
    bench.pass_s(10)
    assert states(bench.told()) == [("working", None)]


def test_short_pauses_are_not_told(bench: Bench) -> None:
    """A job that works now and then causes no traffic."""
    bench.run(7)
    for _ in range(20):
        bench.driver.percent = {0: 100}
        bench.pass_s(10)
        bench.driver.percent = {}
        bench.pass_s(40)
    assert states(bench.told()) == [("working", None)]


def test_one_gpu_that_works_is_enough(bench: Bench) -> None:
    """A job idles only when all its GPUs do; another job's do not count, and noise below the limit is no work."""
    bench.run(7, "0,1")
    bench.run(8, "2")
    bench.driver.percent = {0: 4, 1: 5, 2: 4}
    bench.pass_s(60)
    assert {event["job_id"]: event["state"] for event in bench.told()} == {7: "working", 8: "idle"}


def test_what_cannot_be_read_is_unknown_at_once(bench: Bench) -> None:
    """An idle job with a GPU that cannot be read is no idle job; when it can be again, idling counts from then."""
    bench.run(7)
    bench.pass_s(60)
    bench.told()
    bench.driver.lost = {1}
    bench.pass_s(10)
    assert states(bench.told()) == [("unknown", None)]
    bench.pass_s(100)
    assert bench.told() == []
    bench.driver.lost = set()
    bench.pass_s(70)
    assert states(bench.told()) == [("idle", 1180)]


def test_a_readable_gpu_that_works_settles_it(bench: Bench) -> None:
    """With one GPU lost and another at work the job works."""
    bench.run(7)
    bench.driver.lost, bench.driver.percent = {1}, {0: 50}
    bench.pass_s(60)
    assert states(bench.told()) == [("working", None)]


def test_numbers_that_may_mean_two_gpus_mean_both(bench: Bench) -> None:
    """Where the driver's order is not that of the minor numbers, either GPU that works makes the job work."""
    bench.driver.index_of = {0: 3, 1: 1, 2: 2, 3: 0}
    bench.run(7, "0")
    bench.driver.percent = {3: 50}
    bench.pass_s(60)
    assert states(bench.told()) == [("working", None)]
    bench.driver.percent, bench.driver.lost = {}, {3}
    bench.pass_s(10)
    assert states(bench.told()) == [("unknown", None)]


def test_a_job_whose_processes_work_on_another_gpu_works(bench: Bench) -> None:
    """Slurm's numbers can mean other GPUs than they seem to; another job's work is no work of this one."""
    bench.run(7, "0")
    bench.run(8, "1")
    bench.driver.percent, bench.driver.pids = {3: 50}, {3: (700,), 0: (801,)}
    bench.pass_s(60)
    assert {event["job_id"]: event["state"] for event in bench.told()} == {7: "working", 8: "idle"}


def test_after_a_gap_nobody_knows(bench: Bench) -> None:
    """An agent that did not look for a while (it was down, or NVML hung) says so, and counts anew."""
    bench.run(7)
    bench.pass_s(60)
    bench.told()
    bench.now_s += 300
    bench.restart()
    bench.pass_s(10)
    assert states(bench.told()) == [("unknown", None)]
    bench.pass_s(70)
    assert states(bench.told()) == [("idle", 1380)]


def test_a_restart_of_the_agent_forgets_nothing(bench: Bench) -> None:
    """A quick one: the job idles since when it did, and its mean goes on."""
    bench.driver.percent = {0: 80, 1: 80}
    bench.run(7)
    bench.pass_s(100)
    bench.driver.percent = {}
    bench.pass_s(50)
    bench.told()
    bench.restart()
    bench.pass_s(10)
    (event,) = bench.told()
    assert (event["state"], event["idle_since_s"], event["mean_percent"]) == ("idle", 1100, 25.0)


def test_a_new_run_of_a_job_starts_anew(bench: Bench) -> None:
    """A requeued job that comes back is not idle since its first run."""
    bench.run(7)
    bench.pass_s(60)
    bench.told()
    bench.run(7)
    bench.pass_s(60)
    assert states(bench.told()) == [("idle", 1060)]


def test_a_job_that_ends_leaves_its_summary(bench: Bench) -> None:
    """Said once, as nothing that anybody acts on; the driver is let go of when no job has GPUs."""
    bench.run(7)
    bench.driver.percent = {0: 100, 1: 100}
    bench.driver.memory_mib = 7000
    bench.pass_s(30)
    bench.jobs.end(7)
    bench.pass_s(20)
    (event,) = bench.told()
    assert (event["state"], event["changed"], event["mean_percent"], event["peak_memory_mib"]) == (
        "unknown", False, 50.0, 7000)  # fmt: skip
    assert bench.driver.released


def test_jobs_without_gpus_are_not_looked_at(bench: Bench) -> None:
    """Nothing is said of them."""
    bench.run(7, "")
    bench.pass_s(120)
    assert bench.told() == []


@pytest.mark.parametrize(
    ("gpus", "numbers"),
    [
        ("", ()),
        ("0", (0,)),
        ("1,0", (0, 1)),
        ("0-2,6", (0, 1, 2, 6)),
        ("MIG-abc", ()),
        ("0,x", ()),
        ("-1", ()),
        ("3-", ()),
    ],
)
def test_device_lists(gpus: str, numbers: tuple[int, ...]) -> None:
    """Slurm's lists of devices; anything else is no list."""
    assert numbers_in(gpus) == numbers
