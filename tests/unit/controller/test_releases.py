"""What the controller releases, what it leaves alone, and what it does when Slurm does not start it."""

from __future__ import annotations

from dataclasses import replace

from slurmext.model.job import JobState
from slurmext.model.state import ActionKind, ActionState
from slurmext.service.overdue import PLACE_PATIENCE_S, RELEASE_PATIENCE_S
from tests.unit.controller.site import POLICY, Site, borrow_everything


def test_a_held_job_is_released_once_and_starts(site: Site) -> None:
    """A job in its guarantee is released, without a node list, and the release is closed when it runs."""
    job = site.slurm.submit("research")
    site.rounds()
    assert site.state(job) is JobState.RUNNING
    assert site.slurm.log == [("release", job)]
    assert site.store.open_actions() == []
    assert [row.state for row in site.store.jobs()] == ["running"]


def test_jobs_of_several_sizes_start_where_the_plan_has_them(site: Site) -> None:
    """Slurm alone would put the small ones on the whole nodes that the large ones need."""
    filler = site.slurm.submit("research", 4, required_nodes="n4")
    site.rounds()
    small = [site.slurm.submit("research", 2) for _ in range(2)]
    large = [site.slurm.submit("prod", 8) for _ in range(2)]
    more = site.slurm.submit("research", 8)
    site.rounds(2)
    assert [site.state(job) for job in [filler, *small, *large, more]] == [JobState.RUNNING] * 6


def test_a_job_that_slurm_has_no_room_for_is_planned_anew_at_once(site: Site) -> None:
    """Once without a penalty; the second time there is something that slurmext does not see."""
    job = site.slurm.submit("prod")
    site.slurm.stuck.add(job)
    site.rounds(1)
    site.slurm.records[job] = replace(site.slurm.records[job], reason="Resources")
    site.rounds(4)
    assert site.done("hold") == [job]
    assert site.done("release") == [job, job]
    site.slurm.records[job] = replace(site.slurm.records[job], reason="Resources")
    site.rounds(6)
    assert site.done("hold") == [job, job]
    site.slurm.stuck.clear()
    site.rounds(10)
    assert site.done("release") == [job, job]
    site.rounds(30)
    assert site.state(job) is JobState.RUNNING


def test_a_job_that_no_node_can_run_is_not_released_over_and_over(site: Site) -> None:
    """Slurm holds it by itself as soon as it is released; it is tried again only now and then, later each time."""
    job = site.slurm.submit("prod")
    site.slurm.stuck.add(job)
    for _ in range(60):
        site.rounds(1)
        record = site.slurm.records[job]
        if not record.held:
            site.slurm.records[job] = replace(record, priority=0, reason="BadConstraints")
    assert site.done("release") == [job, job]
    said = [action.message for action in site.store.actions() if action.state is ActionState.ABANDONED]
    assert said == ["Slurm says that no node could run it: BadConstraints"] * 2


def test_jobs_let_through_unheld_are_adopted(site: Site) -> None:
    """A pending job that nobody holds comes under admission: held first, released when quota allows."""
    borrow_everything(site)
    stray = site.slurm.submit("research", held=False)
    site.slurm.stuck.add(stray)
    site.rounds(2)
    assert site.done("hold") == [stray]
    site.slurm.stuck.clear()
    site.rounds(3)
    assert site.state(stray) is JobState.PENDING


def test_a_release_slurm_does_not_act_on_is_taken_back_and_retried_later(site: Site) -> None:
    """A job Slurm cannot start gives its GPUs back after a while and waits longer each time."""
    job = site.slurm.submit("research")
    site.slurm.stuck.add(job)
    site.rounds(int(RELEASE_PATIENCE_S) + 3)
    assert site.done("hold") == [job]
    site.rounds(20)
    assert site.done("release") == [job], "a penalty keeps it from being released at once"
    site.slurm.stuck.clear()
    site.rounds(20)
    assert site.state(job) is JobState.RUNNING


def test_a_released_job_that_slurm_keeps_behind_others_is_put_first(site: Site) -> None:
    """A job outside all queues that waits for GPUs would else keep it from starting, although its own are free."""
    job = site.slurm.submit("research")
    site.slurm.stuck.add(job)
    site.rounds(1)
    site.slurm.records[job] = replace(site.slurm.records[job], reason="Priority")
    site.rounds(3)
    assert site.done("put_first") == [job]
    assert site.state(job) is JobState.RUNNING


def test_a_beneficiary_goes_before_jobs_that_wait_outside_our_queues(site: Site) -> None:
    """Or Slurm would give them what its victims leave; where nobody waits there it costs no command."""
    borrow_everything(site)
    site.slurm.submit(None, managed=False)
    beneficiary = site.slurm.submit("prod")
    site.rounds(4)
    assert site.state(beneficiary) is JobState.RUNNING
    assert site.done("put_first") == [beneficiary]


def test_a_job_sent_to_taken_nodes_is_planned_anew_without_penalty(site: Site) -> None:
    """When what was promised to a beneficiary is taken by somebody else, it is placed again soon."""
    borrow_everything(site)
    gang = site.slurm.submit("prod")
    site.slurm.stuck.add(gang)
    site.rounds(5 + int(PLACE_PATIENCE_S))
    assert gang in site.done("hold")
    site.slurm.stuck.clear()
    site.rounds(4)
    assert site.state(gang) is JobState.RUNNING


def test_a_refused_release_is_recorded_with_slurms_words(site: Site) -> None:
    """Slurm's refusal ends the action as refused, and the job stays held."""
    job = site.slurm.submit("research")
    site.slurm.refuse.add(job)
    site.rounds(2)
    (action,) = site.store.actions()
    assert action.state is ActionState.REFUSED
    assert any("Access denied" in event.message for event in site.store.events(job_id=job))
    assert site.slurm.records[job].priority == 0


def test_user_holds_and_dependencies_wait(site: Site) -> None:
    """What its user or another job holds back is not released."""
    held = site.slurm.submit("research", user_hold=True)
    dependent = site.slurm.submit("research", dependency="afterok:1(unfulfilled)")
    site.rounds(3)
    assert site.slurm.log == []
    reasons = {row.job.job_id: (row.reason, row.message) for row in site.store.jobs()}
    assert reasons[held][0] == reasons[dependent][0] == "NOT_ELIGIBLE"
    assert "scontrol release" in reasons[held][1]
    assert "afterok" in reasons[dependent][1]


def test_a_job_released_by_its_user_is_taken_over_and_admitted(site: Site) -> None:
    """Sbatch --hold, then scontrol release: held by us in place of the user, without the guard's begin time."""
    job = site.slurm.submit("research", user_hold=True)
    site.rounds(2)
    released = replace(site.slurm.records[job], priority=100, reason="None", eligible_s=int(site.slurm.now()) + 30)
    site.slurm.records[job] = released
    site.rounds(3)
    assert site.slurm.log == [("take_over", job), ("release", job)]
    assert site.state(job) is JobState.RUNNING


def test_a_released_jobs_own_begin_time_stays(site: Site) -> None:
    """A begin time later than the guard's is the user's."""
    begin_s = int(site.slurm.now()) + 500
    job = site.slurm.submit("research", user_hold=True, eligible_s=begin_s)
    site.slurm.records[job] = replace(site.slurm.records[job], priority=100, reason="None")
    site.rounds(3)
    assert site.slurm.log == [("hold", job)]
    assert site.slurm.records[job].eligible_s == begin_s


def test_unmanaged_jobs_use_up_nodes(site: Site) -> None:
    """GPUs of jobs slurmext does not manage are not planned with."""
    for _ in range(4):
        site.slurm.submit(None, managed=False)
    site.slurm.tick()
    job = site.slurm.submit("research")
    site.rounds(3)
    assert site.state(job) is JobState.PENDING
    assert site.done("release") == []


def test_an_elastic_gang_is_cut_to_what_is_free(site: Site) -> None:
    """--gang-min lets a gang start smaller, on named nodes."""
    jobs = [site.slurm.submit("research", preemptible=False) for _ in range(2)]
    site.rounds(4)
    assert all(site.state(job) is JobState.RUNNING for job in jobs)
    gang = site.slurm.submit("prod", tasks=3, gang_min=1)
    site.rounds(4)
    assert site.state(gang) is JobState.RUNNING
    assert len(site.slurm.records[gang].placement) == 2


def test_a_settled_world_is_left_alone(site: Site) -> None:
    """Cycles over an unchanged world do nothing more."""
    borrow_everything(site)
    site.slurm.submit("prod", tasks=2)
    site.slurm.submit("research")
    site.rounds(10)
    before = list(site.slurm.log)
    site.rounds(10)
    assert site.slurm.log == before


def test_actions_tell_their_kind(site: Site) -> None:
    """The store has releases and evictions by kind, for reports and budgets."""
    borrow_everything(site)
    site.slurm.submit("prod")
    site.rounds(5)
    kinds = [action.kind for action in site.store.actions()]
    assert kinds.count(ActionKind.EVICT) == 1
    assert kinds.count(ActionKind.RELEASE) >= 5


def test_a_group_limit_holds_jobs_of_the_groups_members() -> None:
    """Slurm names the user, the name service his groups: only those some limit names are looked at."""
    site = Site()
    limited = (POLICY % "").replace("max: 32}", "max: 32, groups: {lab: {max: 8}}}", 1)
    site.store.apply_policy(limited, "root", site.slurm.now())
    first, second = site.slurm.submit("research"), site.slurm.submit("research")
    other = site.slurm.submit("research", user="bob")
    site.rounds()
    assert (site.state(first), site.state(other)) == (JobState.RUNNING, JobState.RUNNING)
    assert site.state(second) is JobState.PENDING
    (row,) = [row for row in site.store.jobs() if row.job.job_id == second]
    assert row.reason == "GROUP_MAX"
    assert site.controller.last is not None
    assert {job.groups for job in site.controller.last[0].snapshot.jobs} == {("lab",), ()}
    assert row.message == "group lab may hold 8 GPUs in queue research and holds 8 (alice 8); the job needs 8"
