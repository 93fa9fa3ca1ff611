"""Who is released while its victims still leave, and who waits until they are gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.job import JobState
from slurmext.model.state import ActionKind, ActionState, CheckpointRecord
from slurmext.service.apply import Applier
from slurmext.service.cycle import Controller
from slurmext.service.handover import handovers
from slurmext.service.overdue import LEAVE_PATIENCE_S, PLACE_PATIENCE_S
from slurmext.testing.fake_cluster import FakeCluster
from slurmext.testing.memory_store import MemoryStore

TWO_QUEUES = """version: 1
settings: {grace_s: 20}
queues:
  research: {guaranteed: 16, max: 32}
  prod: {guaranteed: 16, max: 32}
"""
ONE_MAX = """version: 1
queues:
  org:
    guaranteed: 16
    max: 16
    children:
      research: {guaranteed: 8, max: 16}
      prod: {guaranteed: 8, max: 16}
"""


class Site:
    """A fake cluster of four nodes with a controller."""

    def __init__(self, policy: str) -> None:
        self.slurm, self.store = FakeCluster(), MemoryStore()
        self.store.apply_policy(policy, "root", self.slurm.now())
        lease = self.store.acquire_lease("controller", "me", 15, self.slurm.now())
        assert lease is not None
        self.token = lease.token
        applier = Applier(store=self.store, reader=self.slurm, actuator=self.slurm, clock=self.slurm)
        self.controller = Controller(store=self.store, reader=self.slurm, applier=applier, clock=self.slurm)

    def cycle(self, count: int = 1) -> None:
        for _ in range(count):
            self.controller.run(self.token)

    def rounds(self, count: int) -> None:
        """Cycles with a second between them."""
        for _ in range(count):
            self.cycle()
            self.slurm.tick()

    def fill(self, queue: str, count: int, **more: object) -> list[str]:
        jobs = [self.slurm.submit(queue, **more) for _ in range(count)]
        self.rounds(5)
        assert all(self.slurm.records[job].state is JobState.RUNNING for job in jobs)
        self.slurm.log.clear()
        return jobs

    def acts(self) -> list[str]:
        return [act for act, _ in self.slurm.log]

    def confirm(self, job_id: str) -> None:
        now = self.slurm.now()
        self.store.record_checkpoint(
            CheckpointRecord(job_id=job_id, step=1, path="/c", size_bytes=1, saved_s=now, confirmed_s=now, node="n1")
        )

    def reclaim(self) -> tuple[str, list[str]]:
        """A full cluster, then a gang of two nodes: (gang, victims told to end). The victims are still completing."""
        self.fill("research", 4)
        gang = self.slurm.submit("prod", tasks=2)
        self.cycle()
        victims = [job for act, job in self.slurm.log if act == "requeue"]
        assert len(victims) == 2
        return gang, victims


def test_a_beneficiary_is_released_in_the_cycle_that_tells_its_victims_to_end() -> None:
    """Their end makes Slurm schedule at once, so the gang is there by then, on the nodes they leave."""
    site = Site(TWO_QUEUES)
    gang, victims = site.reclaim()
    assert site.acts() == ["requeue", "requeue", "set_nodes", "release"]
    following = site.controller.run(site.token)
    assert (following.evicting, following.leaving) == (0, 2), "nothing that the daemon must be quick about"
    nodes = {part.node for victim in victims for part in site.slurm.records[victim].placement}
    assert set(site.slurm.records[gang].required_nodes.split(",")) == nodes
    site.slurm.tick()
    assert site.slurm.records[gang].state is JobState.RUNNING
    site.rounds(4)
    assert site.store.open_actions() == []
    assert len(site.store.preemptions()) == 2


def test_the_last_checkpoint_releases_the_gang() -> None:
    """As long as one victim has not been told to end, nobody is released in its place."""
    site = Site(TWO_QUEUES)
    site.fill("research", 4, ckpt="auto")
    gang = site.slurm.submit("prod", tasks=2)
    site.cycle()
    first, second = (job for act, job in site.slurm.log if act == "signal USR1")
    site.confirm(first)
    site.rounds(2)
    assert "release" not in site.acts()
    site.confirm(second)
    site.cycle()
    assert site.slurm.log[-1] == ("release", gang)


@pytest.mark.parametrize("where", ["idle", "kept"])
def test_only_the_leaving_of_every_victim_lets_a_beneficiary_in(where: str) -> None:
    """On an idle node it would start while its victim still counts; on a node that another job keeps, not at all."""
    site = Site(ONE_MAX)
    victims = site.fill("org/research", 2, ckpt="auto")
    job = site.slurm.submit("org/prod")
    site.cycle()
    ((_, victim),) = site.slurm.log
    (kept,) = (site.slurm.records[other].placement[0].node for other in victims if other != victim)
    (fence,) = site.store.fences()
    moved = replace(fence, placement={"n4": 8} if where == "idle" else {**dict.fromkeys(fence.placement, 4), kept: 4})
    snapshot = site.controller.observation()
    (action,) = site.store.open_actions()
    assert [i.job.job_id for i in handovers({action.job}, [action], [fence], snapshot)] == [job]
    assert handovers({action.job}, [action], [moved], snapshot) == []


@pytest.mark.parametrize("why", ["refused", "gone", "later"])
def test_a_beneficiary_that_cannot_start_is_not_released(why: str) -> None:
    """A victim that Slurm does not end, a gang that was cancelled, or one whose begin time was put off."""
    site = Site(TWO_QUEUES)
    site.fill("research", 4, ckpt="auto")
    gang = site.slurm.submit("prod", tasks=2)
    site.cycle()
    victims = [job for act, job in site.slurm.log if act == "signal USR1"]
    for victim in victims:
        site.confirm(victim)
    record = site.slurm.records[gang]
    if why == "refused":
        site.slurm.refuse_requeue.add(victims[0])
    elif why == "gone":
        site.slurm.end(gang, "CANCELLED")
    else:
        site.slurm.records[gang] = replace(record, eligible_s=int(site.slurm.now()) + 1000)
    site.cycle()
    assert "release" not in site.acts()


def test_a_beneficiary_waits_longer_for_victims_that_take_long_to_end() -> None:
    """While victims are completing Slurm cannot start it; it is taken back when they never end."""
    site = Site(TWO_QUEUES)
    gang, _ = site.reclaim()
    site.slurm.linger = True
    site.rounds(int(PLACE_PATIENCE_S) + 5)
    assert "hold" not in site.acts()
    site.rounds(int(LEAVE_PATIENCE_S))
    assert ("hold", gang) in site.slurm.log


def test_a_victim_that_slurm_starts_again_gives_the_gang_a_new_plan_at_once() -> None:
    """Where requeued jobs are eligible at once, a victim may take its GPUs back before the gang has them."""
    site = Site(TWO_QUEUES)
    site.slurm.requeue_delay_s = 0
    gang, _ = site.reclaim()
    site.slurm.tick()
    site.slurm.tick()
    site.cycle()
    assert ("hold", gang) in site.slurm.log
    (release,) = (
        action
        for action in site.store.actions(job_id=gang)
        if action.kind is ActionKind.RELEASE and action.state is ActionState.ABANDONED
    )
    assert not release.detail.get("not_started"), "no penalty"
