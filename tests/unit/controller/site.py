"""A site to test the controller at: a Slurm in memory, a store, and the controller over them."""

from __future__ import annotations

from collections.abc import Callable

from slurmext.model.job import JobState
from slurmext.model.state import CheckpointRecord
from slurmext.policy.invariants import Watch
from slurmext.service.apply import Applier, Tell
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

    def boot(self, crash: Callable[[str], None] = lambda _: None, tell: Tell = lambda *_: None) -> None:
        """A new daemon over the same world."""
        lease = self.store.acquire_lease("controller", "me", 15, self.slurm.now())
        assert lease is not None
        self.token = lease.token
        self.killed: list[tuple[str, float]] = []
        applier = Applier(
            store=self.store, reader=self.slurm, actuator=self.slurm, clock=self.slurm, crash=crash, tell=tell,
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


def borrow_everything(site: Site, **more: object) -> list[str]:
    jobs = [site.slurm.submit("research", **more) for _ in range(4)]
    site.rounds(5)
    assert all(site.state(job) is JobState.RUNNING for job in jobs)
    return jobs
