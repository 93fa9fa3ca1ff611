"""The controller's work on slices, over a Slurm and agents in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from site_of_slices import POLICY, Site

from slurmext.model.slice_state import HoldState, SliceState
from slurmext.model.slicing import GpuUse
from slurmext.model.state import JobKey


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_job_gets_its_slice_on_a_gpu_that_is_taken_for_it(site: Site) -> None:
    """Placeholder first, then the reservation, then the release to exactly that node."""
    job = site.submit(slice_profile="1g.10gb")
    site.steps(8)
    assert site.state(job) == "RUNNING", site.why()
    (one,) = site.slices(job)
    assert (one.state, one.profile, one.milli, one.user, one.queue) == (
        SliceState.LIVE, "1g.10gb", 143, "alice", "research",
    )  # fmt: skip
    assert one.uuid == f"MIG-{one.gpu}-{one.start}"
    (hold,) = site.store.holds()
    assert (hold.state, hold.gpu, hold.for_job) == (HoldState.HELD, one.gpu, job)
    order = [what for what, _ in site.slurm.log]
    assert order.index("hold_gpu") < order.index("set_nodes") < order.index("release")
    assert site.slurm.records[job].required_nodes == one.node


def test_when_it_ends_nothing_is_left(site: Site) -> None:
    """The slice is history, and after a while the GPU is whole again and its placeholder gone."""
    job = site.submit(slice_profile="1g.10gb")
    site.steps(8)
    site.end(job)
    site.steps(3)
    assert site.states(job) == [SliceState.FREED]
    site.steps(70, 10)
    assert site.store.holds() == []
    assert set(site.agents.use.values()) == {GpuUse.WHOLE}
    names = [record.name for record in site.slurm.records.values() if record.slurm_state == "RUNNING"]
    assert names == []


def test_a_reservation_waits_for_the_agents_word(site: Site) -> None:
    """A job is not released before its agent has its slices written down."""
    site.agents.mute = {"n1", "n2"}
    job = site.submit(slice_profile="1g.10gb")
    site.steps(6)
    assert site.state(job) == "PENDING"
    assert site.states(job) == [SliceState.RESERVED]
    assert "release" not in {what for what, _ in site.slurm.log}
    site.agents.mute = set()
    site.steps(8)
    assert site.state(job) == "RUNNING"


def test_an_agent_that_never_answers_is_a_reason_and_no_hang(site: Site) -> None:
    """The job is told why, waits a little, and gets its slices where an agent answers."""
    site.agents.mute = {"n1", "n2"}
    job = site.submit(slice_profile="1g.10gb")
    site.steps(24)
    assert site.row(job).reason == "SLICE_MISSED"
    assert "does not answer" in site.row(job).message
    site.agents.mute = set()
    site.steps(30)
    assert site.state(job) == "RUNNING", site.why()


def test_nothing_goes_to_a_node_whose_agent_is_away(site: Site) -> None:
    """What nobody has told of cannot be planned on; the job runs on the other node."""
    site.agents.away = {"n1"}
    jobs = [site.submit(slice_profile="1g.10gb") for _ in range(3)]
    site.steps(10)
    assert {record.node for job in jobs for record in site.slices(job)} == {"n2"}


def test_a_missed_job_is_requeued_held_and_tried_again(site: Site) -> None:
    """Its tasks never ran; it waits a little with the reason, and gets a place on another node."""
    site.agents.broken = {uuid for uuid in site.agents.use if uuid.startswith("n1")}
    job = site.submit(slice_profile="1g.10gb")
    site.steps(6)
    assert site.slurm.records[job].restarts == 1, site.why()
    assert site.row(job).reason == "SLICE_MISSED"
    assert "the driver refused" in site.row(job).message
    assert site.slurm.records[job].held
    site.steps(12)
    assert site.state(job) == "RUNNING", site.why()
    assert [(one.node, one.state) for one in site.slices(job, active=False)] == [
        ("n1", SliceState.MISSED), ("n2", SliceState.LIVE),
    ]  # fmt: skip
    assert site.row(job).preempted == 0


def test_all_slices_of_a_job_are_missed_together(site: Site) -> None:
    """Where one of two nodes cannot make its part, the other's is given back."""
    job = site.submit(slice_profile="1g.10gb", nodes=2, tasks=2, tasks_per_node=1, all_tasks=2)
    site.steps(2)
    site.agents.broken = {uuid for uuid in site.agents.use if uuid.startswith("n2")}
    site.steps(4)
    assert SliceState.MISSED in site.states(job), site.why()
    assert not site.agents.live
    assert all(state.final for state in site.states(job) if state is not SliceState.READY)


@pytest.mark.parametrize("after", range(1, 9))
def test_a_daemon_that_dies_at_any_time_leaves_nothing_double(site: Site, after: int) -> None:
    """A new daemon finds placeholders and reservations again: each job has its slices once, each GPU one hold."""
    jobs = [site.submit(slice_profile=profile) for profile in ("1g.10gb", "3g.40gb", "7g.80gb")]
    site.steps(after)
    site.boot()
    site.steps(14)
    assert [site.state(job) for job in jobs] == ["RUNNING"] * 3, site.why()
    assert all(len(site.slices(job)) == 1 for job in jobs)
    holding = [hold.gpu for hold in site.store.holds()]
    assert len(holding) == len(set(holding))
    running = [
        r for r in site.slurm.records.values() if r.name.startswith("slurmext-slices-") and r.slurm_state == "RUNNING"
    ]
    assert {hold.job_id for hold in site.store.holds()} == {record.slurm_id for record in running}


def test_a_placeholder_submitted_by_a_daemon_that_died_is_found_by_its_name(site: Site) -> None:
    """Between sbatch and the database: it is neither doubled nor left."""
    job = site.submit(slice_profile="1g.10gb")
    site.step()
    (hold,) = site.store.holds()
    site.store.change_hold(site.token, replace(hold, state=HoldState.INTENT, job_id=""))
    site.boot()
    site.steps(10)
    assert site.state(job) == "RUNNING", site.why()
    assert len([1 for what, _ in site.slurm.log if what == "hold_gpu"]) == 1


def test_a_placeholder_nobody_knows_of_is_ended_and_a_users_job_of_that_name_is_not(site: Site) -> None:
    """Only root's and SlurmUser's count: anybody can call a job like one."""
    stray = site.slurm.hold_gpu("slurmext-slices-99", "n1", "h100", ())
    users = site.slurm.submit(None, gpus=1, managed=False, name="slurmext-slices-98", uid=1000)
    site.submit(slice_profile="1g.10gb")
    site.steps(4)
    assert site.state(stray) == "CANCELLED"
    assert site.state(users) == "RUNNING"


def test_whole_and_cut_use_never_overlap(site: Site) -> None:
    """A whole-GPU job gets what is not held, waits for the rest, and gets a cut GPU when that is empty."""
    small = site.submit(slice_profile="1g.10gb")
    site.steps(8)
    whole = site.slurm.submit("research", gpus=2, tasks=2)
    site.steps(4)
    assert site.state(whole) == "PENDING"
    site.end(small)
    site.steps(40, 5)
    assert site.state(whole) == "RUNNING", site.why()
    assert set(site.agents.use.values()) == {GpuUse.WHOLE}


def test_slices_and_whole_gpus_count_against_one_quota() -> None:
    """Seven sevenths of a GPU and no more: what is over the queue's max waits for it, whole jobs as well."""
    site = Site(POLICY.replace("max: 8}\n  prod", "max: 8}\n  small: {max: 1}\n  prod"))
    jobs = [site.submit("small", slice_profile="1g.10gb") for _ in range(8)]
    site.steps(12)
    running = [job for job in jobs if site.state(job) == "RUNNING"]
    assert len(running) in {6, 7}
    waiting = next(job for job in jobs if job not in running)
    assert site.row(waiting).reason == "QUEUE_MAX"
    whole = site.slurm.submit("small", gpus=1)
    site.steps(3)
    assert (site.state(whole), site.row(whole).reason) == ("PENDING", "QUEUE_MAX")


def test_a_job_that_outgrew_its_slice_gets_the_next_size_once(site: Site) -> None:
    """Only who asked for it, only when memory was the cause, and not a third time."""
    job = site.submit(slice_profile="1g.10gb", oom_retry=True)
    site.steps(8)
    (first,) = site.slices(job)
    site.agents.sampled(first.node, job, first.reservation, memory_mib=9984, memory_peak_mib=9900)
    site.end(job, "FAILED")
    site.steps(20)
    sizes = [record.profile for record in site.slices(job, active=False)]
    assert sizes == ["1g.10gb", "1g.20gb"], site.why()


def test_a_job_of_an_array_is_known_by_its_key(site: Site) -> None:
    """Reservations are of a job and its submission: a reused id has nothing to do with them."""
    job = site.submit(slice_profile="1g.10gb")
    site.steps(8)
    assert {record.job for record in site.slices()} == {JobKey(job_id=job, submit_s=1000)}


def test_a_job_above_its_queues_max_is_told_what_uses_it() -> None:
    """Slices by their part of a GPU, whole GPUs as such; the list of queues and of jobs count alike."""
    from slurmext.service.query.desk import Queries
    from slurmext.service.query.viewer import Viewer

    site = Site(POLICY.replace("research: {guaranteed: 4, max: 8}", "research: {guaranteed: 1, max: 1}"))
    for _ in range(6):
        site.submit(slice_profile="1g.10gb")
    site.steps(10)
    late = site.submit(slice_profile="2g.20gb")
    whole = site.slurm.submit("research", gpus=1)
    site.steps(3)
    assert (site.row(late).reason, site.row(late).message) == (
        "QUEUE_MAX",
        "queue research uses 0.86 of at most 1 GPU, 0.86 of them in slices, and the job needs 0.29",
    )
    assert site.row(whole).message == (
        "queue research uses 0.86 of at most 1 GPU, 0.86 of them in slices, and the job needs 1"
    )
    queries = Queries(
        store=site.store, now=site.slurm.now, world=lambda: _world(site), slices=lambda: site.controller.slices.last
    )
    root = Viewer(user="root", sees_all=True)
    (queue,) = [row for row in queries.answer(root, "queues", {})["queues"] if row["path"] == "research"]
    assert (queue["used"], queue["pending_gpus"], queue["sliced"]) == (0.86, 1.29, 0.86)
    account = queries.answer(root, "queue_explain", {"queue": "research"})["account"]
    assert (account["uses"], account["waiting_jobs"], account["waiting_gpus"]) == (0.86, 2, 1.29)
    gpus = [job["gpus"] for job in queries.answer(root, "jobs", {})["jobs"]]
    assert gpus == [0.14] * 6 + [0.29, 1]


def _world(site: Site) -> Any:
    observation, decided = site.controller.last
    return observation.snapshot, decided


def test_cards_are_told_to_job_submit(site: Site) -> None:
    """As soon as agents described them, whether or not anybody wants slices."""
    from slurmext.config.slice_table import slices_tsv

    site.step()
    lines = slices_tsv(site.cards, site.unheard).splitlines()
    assert lines[0].startswith("card\th100\t")
    assert lines[1] == "nodes\t2\th100=2"
    assert "nodes\t1\t?" in slices_tsv(site.cards, 1).splitlines()
    assert "profile\t1g.10gb\th100\t9984\t1\t7" in lines


def test_borrowed_slices_are_taken_back_for_a_guarantee() -> None:
    """The borrower is told to save, requeued when its grace is over, and the guaranteed job gets the place."""
    policy = POLICY.replace("research: {guaranteed: 4, max: 8}", "research: {guaranteed: 0, max: 8}")
    site = Site(policy)
    borrowers = [site.submit("research", slice_profile="7g.80gb", ckpt="auto") for _ in range(4)]
    site.steps(10)
    assert [site.state(job) for job in borrowers] == ["RUNNING"] * 4, site.why()
    owner = site.submit("prod", slice_profile="7g.80gb")
    site.steps(40)
    assert site.state(owner) == "RUNNING", (site.row(owner), site.slurm.log, site.controller.slices.last[1])
    left = [job for job in borrowers if site.slurm.records[job].restarts]
    assert len(left) == 1
    assert ("signal USR1", left[0]) in site.slurm.log
    (line,) = site.store.preemptions()
    assert (line.victim.job_id, line.beneficiary, line.reason) == (left[0], owner, "RECLAIM_GUARANTEE")
    assert site.row(left[0]).state == "pending"


def test_borrowed_slices_make_room_for_guaranteed_whole_gpus() -> None:
    """GPUs that were cut for borrowers go back whole to who is guaranteed them, without anybody else leaving."""
    site = Site(POLICY.replace("research: {guaranteed: 4, max: 8}", "research: {guaranteed: 0, max: 8}"))
    borrowers = [site.submit("research", slice_profile="7g.80gb", ckpt="auto") for _ in range(4)]
    site.steps(10)
    owner = site.slurm.submit("prod", gpus=2)
    site.steps(45, 2)
    assert site.state(owner) == "RUNNING", site.why()
    assert sum(site.slurm.records[job].restarts for job in borrowers) == 2
    assert sorted(site.agents.use.values()) == [GpuUse.MIG, GpuUse.MIG, GpuUse.WHOLE, GpuUse.WHOLE]


def test_a_gpu_that_slurm_does_not_give_is_a_reason(site: Site) -> None:
    """An account that is missing, a partition that is shut: the job is told, and Slurm is asked once a minute."""
    from slurmext.errors import SlurmRefused

    def refuse(*_: object) -> str:
        raise SlurmRefused("sbatch: Invalid account or account/partition combination specified")

    site.slurm.hold_gpu = refuse  # type: ignore[method-assign]
    job = site.submit(slice_profile="1g.10gb")
    site.steps(5)
    assert site.row(job).reason == "SLICE_FULL"
    assert "no GPU of n1 (sbatch: Invalid account" in site.row(job).message
    assert len(site.store.holds(active=False)) == 2
