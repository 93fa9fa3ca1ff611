"""What `job explain` and `queue explain` print of the daemon's answers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from slurmext.cli.explain import as_text, estimate_text
from slurmext.config.wire import snapshot_to_json
from slurmext.daemon.query_server import SOCKET_NAME, QueryServer
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Plan, Reason
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.obstacles import obstacles
from slurmext.service.forecast import Forecast
from slurmext.service.query import Queries, Viewer

from .conftest import NOW
from .test_query import informed, world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slurmext.config.site import SiteConfig
    from slurmext.testing.memory_store import MemoryStore

    from .conftest import Run

LATE = Forecast(start_s=NOW + 3720, seen_s=NOW + 3720)


@pytest.fixture
def daemon(store: MemoryStore, site: SiteConfig) -> Iterator[None]:
    """A daemon that knows the cluster, on the socket the commands ask."""
    with QueryServer(site.run_dir / SOCKET_NAME, informed(store, LATE)):
        yield


def text(store: MemoryStore, job: str, seen: Forecast | None) -> str:
    return "\n".join(
        as_text(informed(store, seen).answer(Viewer(user="root", sees_all=True), "job_explain", {"job": job}))
    )


@pytest.mark.usefixtures("daemon")
def test_job_explain_tells_who_is_before_who_ends_and_when_it_starts(run: Run) -> None:
    """With what the estimate stands on."""
    said = run("job", "explain", "42").output
    assert "1 job of its queue, asking for 8 GPUs, is asked before it." in said
    assert "job 1 of queue research/nlp (8 GPUs) ends by" in said
    assert "(in 1 h 2 min) at the latest, if running jobs use their whole time limit and nobody else comes." in said
    as_data = json.loads(run("job", "explain", "42", "--json").output)
    assert as_data["estimate"]["start_s"] == NOW + 3720


@pytest.mark.parametrize(
    ("job", "seen", "line"),
    [
        ("57", None, "Within 1 min: as soon as the jobs that leave for it have saved."),
        ("42", None, "at the latest, if running jobs use their whole time limit and what comes free goes to it."),
        ("42", Forecast(start_s=None, seen_s=NOW + 600), "(in 10 min) if running jobs use their whole time limit."),
        (
            "42",
            Forecast(start_s=None, seen_s=NOW, never=True),
            "Nobody can say: nothing that is known now makes room for it.",
        ),
    ],
)
def test_an_estimate_says_how_sure_it_is(store: MemoryStore, job: str, seen: Forecast | None, line: str) -> None:
    """A promise, an upper bound, a lower bound, or nothing."""
    assert line in text(store, job, seen)


def test_what_a_job_waits_for_besides_gpus_decides_when_it_starts(store: MemoryStore) -> None:
    """Neither jobs without a time limit nor a lack of room are in the way of one whose model is not there."""
    snapshot, made = world()
    missing = [
        replace(job, blocked="--preload=org/x: no such model") if job.id == "42" else job for job in snapshot.jobs
    ]
    blocked = replace(snapshot, jobs=tuple(missing)), made
    never = Forecast(start_s=None, seen_s=NOW, never=True)
    queries = Queries(store=store, now=lambda: NOW, world=lambda: blocked, forecast=lambda _snapshot, _job: never)
    said = "\n".join(as_text(queries.answer(Viewer(user="root", sees_all=True), "job_explain", {"job": "42"})))
    assert "Nobody can say: not before this has changed: --preload=org/x: no such model." in said
    assert "makes room" not in said and "in its way" not in said


def test_what_never_ends_is_named_truly() -> None:
    """Jobs without a time limit only where there are some it waits for, and slices, which are no jobs of whole GPUs."""
    ends = Job(id="1", queue="a", state=JobState.RUNNING, time_limit_s=60, placement=(NodeGpus(node="n1", gpus=1),))
    runs = Job(id="2", queue="b", state=JobState.RUNNING, placement=(NodeGpus(node="n1", gpus=1),))
    stands_for = Job(id="slices of bob in a", queue="a", state=JobState.RUNNING)
    holds = Job(id="slurmext-slices-1", queue="", state=JobState.RUNNING, placement=(NodeGpus(node="n1", gpus=1),))
    waits = Job(id="3", queue="a", state=JobState.PENDING)
    world = Snapshot(
        nodes=(Node(name="n1", gpus=4, gpu_type="h100"),),
        queues=(Queue(path="a", max=2), Queue(path="b")),
        jobs=(ends, runs, stands_for, holds, waits),
        sliced={"a": {"bob": 0.43}},
    )
    at_max = obstacles(world, Plan(reasons={"3": Reason.QUEUE_MAX}), waits)
    assert (at_max.unlimited_jobs, at_max.sliced_gpus) == (0, 0.43)
    anywhere = obstacles(world, Plan(reasons={"3": Reason.NO_FREE_GPUS}), waits)
    assert (anywhere.unlimited_jobs, anywhere.sliced_gpus) == (1, 0.43)
    never = {"start_s": None, "how": "simulated", "seen_s": NOW, "never": True}
    said = estimate_text({**never, **asdict(anywhere)}, NOW, hopeless=False)
    assert said == (
        "Nobody can say: 1 job without a time limit (--time) is in its way and 0.43 GPUs in slices come free when"
        " their jobs end."
    )
    assert "time limit" not in estimate_text({**never, **asdict(at_max)}, NOW, hopeless=False)


@pytest.mark.usefixtures("daemon")
def test_queue_explain_has_shares_market_and_past_use(run: Run) -> None:
    """And as data."""
    said = run("queue", "explain", "research/nlp").output
    assert "research/nlp is guaranteed 8 GPUs" in said
    assert "Its fair share now is 16 GPUs, 16 less than it uses" in said
    assert "In the cluster beyond guarantees: research 16; they come from idle guarantees of prod 16." in said
    assert "research/nlp 24; they come from idle guarantees of research/vision 8 and 16 that research itself" in said
    assert "Below their fair share while jobs wait: prod 16 (16 of its guarantee)." in said
    assert "GPU-hours used, day by day" in said
    found = json.loads(run("queue", "explain", "research/nlp", "--json", "--since", "2d").output)
    assert [level["parent"] for level in found["account"]["levels"]] == ["", "research"]
    assert len(found["past_use"][0]["days_gpu_h"]) == 2


def test_without_the_daemon_queue_explain_says_what_is_missing(run: Run) -> None:
    """The rest is told."""
    said = run("queue", "explain", "research").output
    assert "slurmextd does not answer" in said
    assert "so 8 are borrowed" in said


def test_a_saved_snapshot_is_explained_with_a_look_ahead(run: Run, tmp_path: Path) -> None:
    """By the planner's own clock."""
    file = tmp_path / "now.json"
    file.write_text(snapshot_to_json(world()[0]))
    said = run("plan", "--snapshot", str(file), "--explain", "42").output
    assert "By the planner's own clock" in said
    assert "Before it in its queue: 1 job asking for 8 GPUs." in said
