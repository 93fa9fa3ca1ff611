"""Heterogeneous jobs: no queue takes them, but they are told to save near their limit, and can be asked for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from slurmext.errors import SlurmextError, SlurmUnavailable
from slurmext.model.cluster import Annotation, ClusterView, JobRecord
from slurmext.model.heterogeneous import LEFT_TO_SLURM, whole_id, whole_jobs
from slurmext.model.job import JobState, NodeGpus
from slurmext.model.state import ActionKind, ActionState, CheckpointRecord
from slurmext.model.upkeep import CheckpointCopy
from slurmext.ports import Actuator
from slurmext.service import chain, ckpt_wish
from slurmext.service.query import Queries
from slurmext.service.query.viewer import Viewer
from slurmext.service.rejoining import AGAIN_S, Rejoining, stranded
from tests.unit.controller.site import Site

GRACE_S = 20.0
LIMIT_S = 600
ROOT, ALICE, BOB = Viewer(user="root", sees_all=True), Viewer(user="alice"), Viewer(user="bob")


def part(number: int, **more: object) -> JobRecord:
    """Component `number` of job 12, running on a node of its own."""
    given = {"state": JobState.RUNNING, "gpus_per_task": 2, "time_limit_s": 600, "end_s": 1600, "start_s": 1000} | more
    return JobRecord(
        slurm_id=f"12+{number}", raw_id=str(12 + number), het=True, batch=not number,
        placement=(NodeGpus(node=f"n{number + 1}", gpus=2),), **given,
    )  # fmt: skip


def test_components_are_one_job() -> None:
    """The first limit to end is the whole's, whoever says --ckpt says it for all, and all must be requeueable."""
    asked = Annotation(ckpt="auto,chain", held=False)
    first, second = part(0), part(1, time_limit_s=60, end_s=1060, requeue=False, annotation=asked, eligible_s=7)
    (whole,) = whole_jobs([second, JobRecord(slurm_id="11"), first]).values()
    assert (whole.slurm_id, whole.raw_id, whole.components) == ("12", "12", (first, second))
    assert (whole.time_limit_s, whole.end_s, whole.eligible_s, whole.requeue, whole.batch) == (60, 1060, 7, False, True)
    assert (whole.tasks * whole.gpus_per_task, whole.annotation) == (4, asked)
    assert whole.placement == (NodeGpus(node="n1", gpus=2), NodeGpus(node="n2", gpus=2))
    assert [whole_id(name) for name in ("12+1", "12", "12_3")] == ["12", "12", "12_3"]


def test_nothing_is_known_of_a_job_whose_components_differ() -> None:
    """It is starting or ending; and one without its first component is not there any more."""
    assert whole_jobs([part(0), part(1, state=JobState.PENDING)])["12"].state is JobState.UNKNOWN
    assert whole_jobs([part(1)]) == {}


@pytest.fixture
def site() -> Site:
    return Site()


def start(site: Site, ckpt: str | None = "auto,chain") -> str:
    """One of two components that runs."""
    job = site.slurm.submit_het(8, 2, ckpt=ckpt)
    for name in parts(site, job):
        site.slurm.records[name] = replace(site.slurm.records[name], time_limit_s=LIMIT_S)
    site.rounds(3)
    assert {site.state(name) for name in parts(site, job)} == {JobState.RUNNING}
    return job


def parts(site: Site, job: str) -> list[str]:
    return [name for name in site.slurm.records if name.startswith(f"{job}+")]


def near_the_end(site: Site, job: str) -> None:
    end_s = (site.slurm.records[f"{job}+0"].start_s or 0) + LIMIT_S
    site.slurm.tick(end_s - GRACE_S - ckpt_wish.SLACK_S - site.slurm.now() + 1)


def test_it_saves_near_its_limit_and_goes_on_as_a_whole(site: Site) -> None:
    """Told once, requeued once when it has confirmed, eligible at once, never held, and nobody's victim."""
    job = start(site)
    assert site.done("signal USR1") == []
    near_the_end(site, job)
    site.rounds(2)
    assert site.done("signal USR1") == [job]
    assert site.done("requeue") == []
    site.confirm(job)
    site.rounds(6)
    assert site.done("requeue") == [job]
    assert set(site.done("expedite")) == {job}
    assert [site.slurm.records[name].restarts for name in parts(site, job)] == [1, 1]
    assert {site.state(name) for name in parts(site, job)} == {JobState.RUNNING}
    assert site.done("hold") == site.done("hold_requeued") == site.done("release") == []
    assert site.store.preemptions() == site.store.open_actions() == []
    (link,) = site.store.actions(job_id=job)
    assert (link.kind, link.reason, link.state) == (ActionKind.EVICT, chain.REASON, ActionState.DONE)


def test_its_agents_are_told_of_each_component(site: Site) -> None:
    """By the number that component has for itself, on its own nodes."""
    told = list[tuple[list[str], str, bool]]()
    site.boot(tell=lambda nodes, raw_id, _signal, script: told.append((list(nodes), raw_id, script)))
    job = start(site, ckpt="USR2@10,chain")
    near_the_end(site, job)
    site.slurm.tick(GRACE_S)
    site.rounds(1)
    nodes = {name: [place.node for place in site.slurm.records[name].placement] for name in parts(site, job)}
    assert told == [(nodes["1+0"], "1", True), (nodes["1+1"], "2", False)]


@pytest.mark.parametrize("ckpt", [None, "auto"])
def test_who_did_not_ask_for_it_is_left_alone(site: Site, ckpt: str | None) -> None:
    """Slurm ends it at its limit, as ever."""
    job = start(site, ckpt)
    near_the_end(site, job)
    site.rounds(5)
    assert site.done("signal USR1") == site.done("requeue") == []


def test_one_that_saved_nothing_is_left_to_its_limit(site: Site) -> None:
    """Another run would only repeat this one."""
    job = start(site)
    near_the_end(site, job)
    site.rounds(30)
    assert site.done("signal USR1") == [job]
    assert site.done("requeue") == site.store.open_actions() == []


@pytest.mark.parametrize("boundary", ["evict intent", "signalled", "evict signalled", "requeued", "evict requeued"])
def test_a_daemon_that_dies_on_the_way_leaves_nothing_held(site: Site, boundary: str) -> None:
    """The next one takes it up: the job runs again, requeued once at most."""
    job = start(site)
    near_the_end(site, job)

    def crash(where: str) -> None:
        if where in {boundary, "intents recorded" if boundary == "evict intent" else boundary}:
            raise RuntimeError(where)

    def until_it_dies() -> None:
        for _ in range(5):
            site.rounds(1)
            site.confirm(job)

    site.boot(crash)
    with pytest.raises(RuntimeError):
        until_it_dies()
    site.boot()
    for _ in range(12):
        site.rounds(1)
        if site.done("signal USR1") and not site.done("requeue"):
            site.confirm(job)
    assert site.done("requeue") == [job]
    assert {site.state(name) for name in parts(site, job)} == {JobState.RUNNING}
    assert site.done("hold") == site.done("hold_requeued") == site.store.open_actions() == []


def test_requeued_by_slurm_itself_it_is_neither_held_nor_hurried(site: Site) -> None:
    """After a failed node Slurm starts it again when it likes."""
    job = start(site)
    site.slurm.requeue([job])
    site.rounds(12)
    assert {site.state(name) for name in parts(site, job)} == {JobState.RUNNING}
    assert site.done("hold") == site.done("expedite") == []


def test_requeued_by_slurm_while_it_saves_it_has_slurms_own_delay(site: Site) -> None:
    """A node has failed: whoever hurries a job then has it launched where the run before is still cleaned up."""
    job = start(site)
    near_the_end(site, job)
    site.rounds(1)
    assert site.done("signal USR1") == [job]
    site.slurm.requeue([job])
    site.rounds(12)
    assert {site.state(name) for name in parts(site, job)} == {JobState.RUNNING}
    assert site.done("expedite") == site.done("hold") == site.done("hold_requeued") == site.store.open_actions() == []


def test_requeued_by_slurm_just_before_it_is_told_it_is_left_alone(site: Site) -> None:
    """What waits in no queue is not held."""
    job = start(site)
    near_the_end(site, job)

    def fail(where: str) -> None:
        if where == "intents recorded":
            site.slurm.requeue([job])
            site.slurm.tick(1)

    site.boot(fail)
    site.rounds(12)
    assert {site.state(name) for name in parts(site, job)} == {JobState.RUNNING}
    assert site.done("signal USR1") == site.done("hold") == site.store.open_actions() == []


def lose_all_but_the_first(site: Site, job: str) -> None:
    """As Slurm does it when the node of the first component fails."""
    first, second = parts(site, job)
    site.slurm.requeue([first])
    site.slurm.end(second, "FAILED")
    site.slurm.stuck.add(first)
    site.slurm.tick(2)


def test_components_that_a_failed_node_cost_are_had_back(site: Site) -> None:
    """Slurm would let the first wait for them for ever."""
    job = start(site, "auto")
    lose_all_but_the_first(site, job)
    site.rounds(1)
    assert site.done("requeue")[1:] == [f"{job}+1"]
    site.slurm.stuck.clear()
    site.rounds(9)
    assert len(site.done("requeue")) == 2
    assert site.done("expedite") == [], "nodes that still clean up would refuse it, and Slurm hold it"
    assert {site.state(name) for name in parts(site, job)} == {JobState.RUNNING}


def test_what_was_of_no_use_is_tried_again_later() -> None:
    """Slurm may be too busy, or say no."""
    asked = list[str]()

    def requeue(job_ids: list[str]) -> None:
        asked.extend(job_ids)
        raise SlurmUnavailable("Unable to contact slurm controller")

    rejoining = Rejoining(cast("Actuator", SimpleNamespace(requeue=requeue)))
    note = Annotation(ckpt="auto", held=False)
    first, second = part(0, state=JobState.PENDING, restarts=1, annotation=note), part(1, slurm_state="FAILED")
    for read_s in (100.0, 101.0, 100.0 + AGAIN_S):
        rejoining.see(ClusterView(read_s=read_s, jobs=(first,), ended=(second,)))
    assert asked == ["12", "12"]
    for jobs, ended in (((first, second), ()), ((), (first, second)), ((replace(first, restarts=0),), (second,))):
        assert stranded(ClusterView(read_s=0, jobs=jobs, ended=ended)) == []


@pytest.mark.parametrize("ckpt", [None, "auto"])
def test_jobs_that_did_not_ask_or_lost_nothing_are_left_alone(site: Site, ckpt: str | None) -> None:
    """One without --ckpt may not want to run again; one that was cancelled has ended as a whole."""
    job, other = start(site, ckpt), start(site, "auto")
    if ckpt is None:
        lose_all_but_the_first(site, job)
    site.slurm.end(other, "CANCELLED")
    site.rounds(3)
    assert site.done("requeue") == ([f"{job}+0"] if ckpt is None else [])


def test_its_owner_can_ask_for_it_by_any_of_its_ids(site: Site) -> None:
    """As a whole or by a component: what it is, what it saved, where copies are. Nobody else can."""
    job = start(site)
    queries = Queries(store=site.store, raw_ids=site.controller.raw_ids)
    assert [site.controller.slurm_id(raw_id) for raw_id in ("1", "2", "77")] == [job, job, "77"]
    saved = CheckpointRecord(job_id=site.controller.slurm_id("2"), step=5, path="/c", size_bytes=1,
                             saved_s=site.slurm.now(), confirmed_s=site.slurm.now(), node="n1")  # fmt: skip
    site.store.record_checkpoint(saved)
    for number in (1, 2):
        site.store.record_copy(CheckpointCopy(job_id=str(number), node=f"n{number}", name="save-1", tier="memory",
                                              size_bytes=9, done_bytes=9, at_s=1))  # fmt: skip
    for name in (job, f"{job}+0", f"{job}+1"):
        answer = queries.answer(ALICE, "job_explain", {"job": name})
        assert answer["left_to_slurm"] is True
        assert answer["job"]["job_id"] == job
        assert (answer["job"]["gpus"], answer["job"]["message"]) == (10, LEFT_TO_SLURM)
        assert answer["checkpoint"]["step"] == 5
        assert len(queries.answer(ALICE, "checkpoints", {"job": name})["checkpoints"]) == 1
        assert len(queries.answer(ALICE, "ckpt_copies", {"job": name})["copies"]) == 2
        assert queries.answer(ALICE, "ckpt_why", {"job": name})["ckpt"] == "auto,chain"
        with pytest.raises(SlurmextError):
            queries.answer(BOB, "job_explain", {"job": name})
        assert queries.answer(BOB, "checkpoints", {"job": name})["checkpoints"] == []
    assert len(queries.answer(ROOT, "ckpt_copies", {"job": job})["copies"]) == 2


def test_when_it_has_ended_it_is_still_known(site: Site) -> None:
    """With what became of it."""
    job = start(site)
    assert site.controller.observation().ended == ()
    site.slurm.end(job, "FAILED")
    site.rounds(2)
    (row,) = site.store.jobs(active=False)
    assert (row.job.job_id, row.state, row.message) == (job, "failed", LEFT_TO_SLURM)
    assert row.end_s is not None
