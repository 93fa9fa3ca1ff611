"""The controller over a Slurm in memory: what it does to whom, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slurmext.errors import SlurmUnavailable, StoreConflict
from slurmext.model.cluster import ClusterView
from slurmext.model.job import JobState
from slurmext.model.state import ActionKind, ActionState, CheckpointRecord, JobKey
from slurmext.policy.invariants import Watch
from slurmext.service.apply import PLACE_PATIENCE_S, RELEASE_PATIENCE_S, Applier
from slurmext.service.cycle import Controller
from slurmext.testing.fake_cluster import FakeCluster
from slurmext.testing.memory_store import MemoryStore

POLICY = """version: 1
settings: {grace_s: 20, default_queue: research%s}
queues:
  research: {guaranteed: 16, max: 32}
  prod: {guaranteed: 16, max: 32}
"""


GROUPS = {"alice": ("staff", "lab"), "bob": ("staff",)}


class Site:
    """A fake cluster with a controller; `crash` is handed to the applier."""

    def __init__(self, settings: str = "", *, shadow: bool = False, nodes: int = 4) -> None:
        self.slurm, self.store = FakeCluster(nodes=nodes), MemoryStore()
        self.store.apply_policy(POLICY % settings, "root", self.slurm.now())
        self.shadow = shadow
        self.boot()

    def boot(self, crash: Callable[[str], None] = lambda _: None) -> None:
        """A new daemon over the same world."""
        lease = self.store.acquire_lease("controller", "me", 15, self.slurm.now())
        assert lease is not None
        self.token = lease.token
        self.killed: list[tuple[str, float]] = []
        applier = Applier(
            store=self.store, reader=self.slurm, actuator=self.slurm, clock=self.slurm, crash=crash,
            end_left=lambda _nodes, job, _before_s: self.killed.append((job, self.slurm.now())),
        )  # fmt: skip
        self.watch, self.broken = Watch(), list[str]()
        self.controller = Controller(
            on_look=lambda look: self.broken.extend(violation.law for violation in self.watch.look(look)),
            store=self.store,
            reader=self.slurm,
            applier=applier,
            clock=self.slurm,
            shadow=self.shadow,
            groups_of=lambda user: GROUPS.get(user, ()),
        )

    def rounds(self, count: int = 4, seconds: float = 1.0) -> None:
        """Cycles with time between them."""
        for _ in range(count):
            self.controller.run(self.token)
            self.slurm.tick(seconds)

    def state(self, job_id: str) -> JobState:
        return self.slurm.records[job_id].state

    def confirm(self, job_id: str, step: int = 7) -> None:
        """The job saves and says so."""
        now = self.slurm.now()
        record = CheckpointRecord(
            job_id=job_id, step=step, path="/c", size_bytes=1, saved_s=now, confirmed_s=now, node="n1"
        )
        self.store.record_checkpoint(record)

    def done(self, what: str) -> list[str]:
        """Jobs this was done to, in order."""
        return [job for act, job in self.slurm.log if act == what]


@pytest.fixture
def site() -> Site:
    return Site()


def _borrow_everything(site: Site, **more: object) -> list[str]:
    jobs = [site.slurm.submit("research", **more) for _ in range(4)]
    site.rounds(5)
    assert all(site.state(job) is JobState.RUNNING for job in jobs)
    return jobs


def test_a_held_job_is_released_once_and_starts(site: Site) -> None:
    """A job in its guarantee is released, without a node list, and the release is closed when it runs."""
    job = site.slurm.submit("research")
    site.rounds()
    assert site.state(job) is JobState.RUNNING
    assert site.slurm.log == [("release", job)]
    assert site.store.open_actions() == []
    assert [row.state for row in site.store.jobs()] == ["running"]


def test_victims_save_then_requeue_then_the_beneficiary_starts_where_they_were(site: Site) -> None:
    """Signal, confirmation, requeue, fence, release to the freed nodes; the ledger has the victim's line."""
    _borrow_everything(site, ckpt="auto")
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(2)
    victims = site.done("signal USR1")
    assert len(victims) == 2
    assert site.done("requeue") == []
    assert [fence.beneficiary.job_id for fence in site.store.fences()] == [gang]
    for victim in victims:
        site.confirm(victim)
    site.rounds(6)
    assert site.done("requeue") == victims
    assert site.state(gang) is JobState.RUNNING
    assert site.store.fences() == []
    assert site.store.open_actions() == []
    lines = site.store.preemptions()
    assert {line.victim.job_id for line in lines} == set(victims)
    assert all(line.beneficiary == gang and line.confirmed_s is not None for line in lines)
    assert all(site.slurm.records[job].priority == 0 for job in victims), "victims wait under our hold"


@pytest.mark.parametrize("ckpt", ["auto", None])
def test_a_victim_that_does_not_end_is_killed_when_its_grace_is_over(site: Site, ckpt: str | None) -> None:
    """The grace of 20 s begins with the signal, or with TERM for a job that knows none."""
    _borrow_everything(site, ckpt=ckpt)
    site.slurm.linger = True
    site.slurm.submit("prod")
    site.rounds(2)
    (victim,) = site.done("signal USR1" if ckpt else "requeue")
    began_s = site.store.open_actions()[0].created_s
    if ckpt:
        site.confirm(victim)
    while site.slurm.now() < began_s + 20:
        site.rounds(1)
    assert site.done("requeue") == [victim]
    assert site.killed == []
    site.rounds(1)
    assert site.killed == [(victim, began_s + 20)]
    site.rounds(3)
    asked = len(site.killed)
    assert asked >= 3, "it is asked for again"
    site.slurm.linger = False
    site.rounds(5)
    assert len(site.killed) <= asked + 1


def test_a_victim_that_used_up_its_grace_is_killed_a_second_after_term(site: Site) -> None:
    """It never confirmed, so it was requeued when its grace ended."""
    _borrow_everything(site, ckpt="auto")
    site.slurm.linger = True
    site.slurm.submit("prod")
    signalled_s = site.slurm.now()
    site.rounds(23)
    assert site.killed[0][1] == signalled_s + 21


def test_graces_that_end_one_after_the_other_are_waited_for_together(site: Site) -> None:
    """Each scancel takes its time; a cycle for each would keep the beneficiary waiting."""
    _borrow_everything(site, ckpt="auto")
    site.slurm.submit("prod", tasks=2)
    send = site.slurm.signal

    def slowly(job_id: str, signal: str) -> None:
        site.slurm.now_s += 0.1
        send(job_id, signal)

    site.slurm.signal = slowly  # type: ignore[method-assign]
    began_s = site.slurm.now()
    due_s = site.controller.run(site.token).next_s
    assert due_s == pytest.approx(began_s + 20.2)
    site.slurm.now_s = float(due_s or 0)
    site.controller.run(site.token)
    assert len(site.done("requeue")) == 2


def test_a_grace_that_ends_during_a_cycle_is_no_reason_to_wait(site: Site) -> None:
    """The cycle looked at the victim just before; the next one is due at once."""
    _borrow_everything(site, ckpt="auto")
    site.slurm.submit("prod")
    due_s = site.controller.run(site.token).next_s
    assert due_s is not None
    site.slurm.now_s = due_s - 0.1
    read, calls = site.slurm.read, iter((0.0, 0.2))

    def slowly() -> ClusterView:
        site.slurm.now_s += next(calls)
        return read()

    site.slurm.read = slowly  # type: ignore[method-assign]
    again_s = site.controller.run(site.token).next_s
    assert site.done("requeue") == []
    assert again_s is not None
    assert again_s <= site.slurm.now()


def test_every_cycle_of_a_reclaim_keeps_the_laws(site: Site) -> None:
    """Plans and what comes of them: signal, grace, requeue, a beneficiary that starts, a victim that returns."""
    _borrow_everything(site, ckpt="auto")
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(26)
    site.slurm.end(gang)
    site.rounds(5)
    assert len(site.store.preemptions()) == 2
    assert site.broken == []


def test_a_guaranteed_job_that_slurm_does_not_start_is_a_broken_law(site: Site) -> None:
    """Its victim left within the grace, but it does not run within grace + 5 s."""
    _borrow_everything(site, ckpt="auto")
    job = site.slurm.submit("prod")
    site.slurm.stuck.add(job)
    site.rounds(24)
    assert site.broken == []
    site.rounds(4)
    assert set(site.broken) == {"guaranteed demand starts in time"}


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


def test_the_next_cycle_is_due_when_a_grace_ends(site: Site) -> None:
    """First the end of the grace, then, while the victim lingers, when it is to be killed; not a second later."""
    _borrow_everything(site, ckpt="auto")
    site.slurm.linger = True
    site.slurm.submit("prod")
    signalled_s = site.slurm.now()
    assert site.controller.run(site.token).next_s == signalled_s + 20
    site.slurm.tick(20)
    site.controller.run(site.token)
    assert site.controller.run(site.token).next_s == signalled_s + 21


def test_without_confirmation_the_grace_is_waited_out(site: Site) -> None:
    """A victim that stays silent is requeued when its grace is over, not before."""
    _borrow_everything(site, ckpt="auto")
    site.slurm.submit("prod")
    site.rounds(18)
    assert site.done("requeue") == []
    site.rounds(6)
    assert len(site.done("requeue")) == 1


def test_a_checkpoint_from_before_the_signal_does_not_count(site: Site) -> None:
    """Only what was saved after the signal lets a victim go early."""
    jobs = _borrow_everything(site, ckpt="USR2@10")
    for job in jobs:
        site.confirm(job)
    site.slurm.tick(5)
    site.slurm.submit("prod")
    site.rounds(4)
    assert len(site.done("signal USR2")) == 1
    assert site.done("requeue") == []
    site.rounds(8)
    assert len(site.done("requeue")) == 1, "USR2@10 waits 10 s of the 20 s grace"


def test_a_job_without_checkpoints_goes_at_once(site: Site) -> None:
    """Without --ckpt there is no signal it would understand and nothing to wait for."""
    _borrow_everything(site)
    prod = site.slurm.submit("prod")
    site.rounds(4)
    assert not [act for act, _ in site.slurm.log if act.startswith("signal")]
    assert site.state(prod) is JobState.RUNNING


def test_victims_are_requeued_together_and_held_after_the_beneficiary_was_released(site: Site) -> None:
    """Slurm may take a second over a hold: the beneficiary does not wait for it."""
    _borrow_everything(site)
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(6)
    assert site.state(gang) is JobState.RUNNING
    acts = [act for act, _ in site.slurm.log]
    assert acts.index("requeue") < len(acts) - acts[::-1].index("release") - 1 < acts.index("hold_requeued")
    assert len(site.done("hold_requeued")) == 2


def test_where_slurm_restarts_victims_at_once_they_are_held_at_once(site: Site) -> None:
    """With a requeue delay of 0 the first victims start again; the next are held with their requeue, and the gang runs."""
    site.slurm.requeue_delay_s = 0
    _borrow_everything(site)
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(12)
    assert site.state(gang) is JobState.RUNNING
    assert site.store.open_actions() == []


def test_a_cycle_tells_when_the_next_job_becomes_eligible(site: Site) -> None:
    """So that the daemon need not wait for its next interval."""
    assert site.controller.run(site.token).next_s is None
    site.slurm.submit("research", eligible_s=int(site.slurm.now()) + 50)
    site.slurm.submit("research", eligible_s=int(site.slurm.now()) + 20)
    assert site.controller.run(site.token).next_s == site.slurm.now() + 20


def test_a_requeued_job_keeps_its_identity(site: Site) -> None:
    """Slurm gives a requeued job a new submit time; for us it stays the same job with one preemption more."""
    jobs = _borrow_everything(site)
    prod = site.slurm.submit("prod")
    site.rounds(5)
    (victim,) = site.done("requeue")
    rows = {row.job.job_id: row for row in site.store.jobs()}
    assert rows[victim].job == JobKey(job_id=victim, submit_s=1000)
    assert rows[victim].preempted == 1
    assert len(rows) == len(jobs) + 1
    site.slurm.end(prod)
    site.rounds(4)
    assert site.state(victim) is JobState.RUNNING


def test_a_victim_that_ends_by_itself_is_no_preemption(site: Site) -> None:
    """A job that finishes within its grace leaves no line in the ledger, and the beneficiary starts."""
    _borrow_everything(site, ckpt="auto")
    prod = site.slurm.submit("prod")
    site.rounds(2)
    (victim,) = site.done("signal USR1")
    site.slurm.end(victim)
    site.rounds(4)
    assert site.store.preemptions() == []
    assert site.state(prod) is JobState.RUNNING
    assert site.store.open_actions() == []


def test_jobs_let_through_unheld_are_adopted(site: Site) -> None:
    """A pending job that nobody holds comes under admission: held first, released when quota allows."""
    _borrow_everything(site)
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
    _borrow_everything(site)
    site.slurm.submit(None, managed=False)
    beneficiary = site.slurm.submit("prod")
    site.rounds(4)
    assert site.state(beneficiary) is JobState.RUNNING
    assert site.done("put_first") == [beneficiary]


def test_a_job_sent_to_taken_nodes_is_planned_anew_without_penalty(site: Site) -> None:
    """When what was promised to a beneficiary is taken by somebody else, it is placed again soon."""
    _borrow_everything(site)
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


@pytest.mark.parametrize("budget", [", max_requeues_per_cycle: 1", ", max_requeues_per_hour: 1"])
def test_a_gang_whose_victims_are_over_the_budget_waits_whole(budget: str) -> None:
    """Budgets cut whole sets: no victim leaves for a beneficiary that could not start."""
    site = Site(budget)
    _borrow_everything(site)
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(5)
    assert site.done("requeue") == []
    single = site.slurm.submit("prod")
    site.slurm.end(gang, "CANCELLED")
    site.rounds(5)
    assert len(site.done("requeue")) == 1
    assert site.state(single) is JobState.RUNNING


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


def test_non_preemptible_jobs_are_spared(site: Site) -> None:
    """--no-preempt jobs are never victims."""
    kept = [site.slurm.submit("research", preemptible=False) for _ in range(2)]
    site.rounds(3)
    others = [site.slurm.submit("research") for _ in range(2)]
    site.rounds(3)
    site.slurm.submit("prod", tasks=2)
    site.rounds(5)
    assert set(site.done("requeue")) == set(others)
    assert all(site.state(job) is JobState.RUNNING for job in kept)


def test_an_elastic_gang_is_cut_to_what_is_free(site: Site) -> None:
    """--gang-min lets a gang start smaller, on named nodes."""
    jobs = [site.slurm.submit("research", preemptible=False) for _ in range(2)]
    site.rounds(4)
    assert all(site.state(job) is JobState.RUNNING for job in jobs)
    gang = site.slurm.submit("prod", tasks=3, gang_min=1)
    site.rounds(4)
    assert site.state(gang) is JobState.RUNNING
    assert len(site.slurm.records[gang].placement) == 2


def test_shadow_mode_plans_and_records_but_does_nothing() -> None:
    """Shadow mode leaves Slurm alone."""
    site = Site(shadow=True)
    site.slurm.submit("research")
    site.rounds(3)
    assert site.slurm.log == []
    assert site.store.open_actions() == []
    assert len(site.store.jobs()) == 1


def test_slurm_gone_means_nothing_is_done(site: Site) -> None:
    """A cycle without Slurm is skipped, and the next one goes on."""
    job = site.slurm.submit("research")
    site.slurm.down = True
    with pytest.raises(SlurmUnavailable):
        site.controller.run(site.token)
    assert site.store.open_actions() == []
    site.slurm.down = False
    site.rounds(2)
    assert site.state(job) is JobState.RUNNING


def test_a_stale_token_stops_acting(site: Site) -> None:
    """After another daemon took the lease, nothing of the old one reaches Slurm."""
    site.slurm.submit("research")
    site.slurm.now_s += 100
    assert site.store.acquire_lease("controller", "other", 15, site.slurm.now()) is not None
    with pytest.raises(StoreConflict):
        site.controller.run(site.token)
    assert site.slurm.log == []


def test_a_settled_world_is_left_alone(site: Site) -> None:
    """Cycles over an unchanged world do nothing more."""
    _borrow_everything(site)
    site.slurm.submit("prod", tasks=2)
    site.slurm.submit("research")
    site.rounds(10)
    before = list(site.slurm.log)
    site.rounds(10)
    assert site.slurm.log == before


class Killed(BaseException):
    """The daemon dies here."""


def _story(site: Site, crash_at: int) -> int:
    """Borrow, reclaim with checkpoints, end; the daemon dies at boundary `crash_at`. Returns boundaries passed."""
    passed = 0

    def crash(_boundary: str) -> None:
        nonlocal passed
        passed += 1
        if passed == crash_at:
            raise Killed

    def cycles(count: int) -> None:
        for _ in range(count):
            try:
                site.controller.run(site.token)
            except Killed:
                site.boot(crash)
                site.controller.run(site.token)
            site.slurm.tick()
            for job in set(site.done("signal USR1")) - confirmed:
                site.confirm(job)
                confirmed.add(job)

    confirmed = set[str]()
    site.slurm.interrupt = crash
    site.boot(crash)
    research = [site.slurm.submit("research", ckpt="auto") for _ in range(3)]
    research.append(site.slurm.submit("research"))
    cycles(6)
    gang = site.slurm.submit("prod", tasks=2)
    cycles(30)
    assert site.state(gang) is JobState.RUNNING, crash_at
    running = [job for job in research if site.state(job) is JobState.RUNNING]
    waiting = [job for job in research if job not in running]
    assert len(running) == 2, crash_at
    assert all(site.slurm.records[job].priority == 0 for job in waiting), crash_at
    assert all(site.slurm.records[job].restarts == 1 for job in waiting), crash_at
    assert site.store.open_actions() == [], crash_at
    assert sorted(line.victim.job_id for line in site.store.preemptions()) == waiting, crash_at
    assert site.store.fences() == [], crash_at
    site.slurm.end(gang)
    cycles(8)
    assert all(site.state(job) is JobState.RUNNING for job in research), crash_at
    return passed


def test_killed_at_every_boundary_the_story_ends_the_same() -> None:
    """Whatever boundary between store and Slurm the daemon dies at, a restart finishes or rolls back."""
    boundaries = _story(Site(), 0)
    assert boundaries > 20
    for at in range(1, boundaries + 1):
        _story(Site(), at)


def test_actions_tell_their_kind(site: Site) -> None:
    """The store has releases and evictions by kind, for reports and budgets."""
    _borrow_everything(site)
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
