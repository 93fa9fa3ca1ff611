"""A controller with slices over a Slurm and agents in memory."""

from __future__ import annotations

from typing import Any

from slurmext.daemon.slice_events import take_in
from slurmext.model.job import JobState
from slurmext.model.slice_state import SliceState
from slurmext.model.state import Event
from slurmext.service.apply import Applier
from slurmext.service.cycle import Controller
from slurmext.service.slices.desk import SliceDesk
from slurmext.testing.fake_agents import FakeAgents
from slurmext.testing.fake_cluster import FakeCluster
from slurmext.testing.memory_store import MemoryStore

POLICY = """version: 1
settings: {grace_s: 20, default_queue: research}
queues:
  research: {guaranteed: 4, max: 8}
  prod: {guaranteed: 4, max: 8}
"""


class Site:
    """Two nodes with two H100 each, unless said otherwise."""

    def __init__(self, policy: str = POLICY, *, nodes: int = 2, gpus: int = 2) -> None:
        self.slurm, self.store = FakeCluster(nodes=nodes, gpus=gpus), MemoryStore()
        self.agents = FakeAgents([node.name for node in self.slurm.nodes], "h100", gpus, self.slurm.now)
        self.agents.tell = self._on_event
        self.store.apply_policy(policy, "root", self.slurm.now())
        self.seen: set[str] = set()
        self.placed: dict[str, list[str]] = {}
        for node in self.slurm.nodes:
            self.agents.inventory(node.name)
        self.boot()

    def boot(self) -> None:
        """A new daemon over the same world."""
        lease = self.store.acquire_lease("controller", "me", 15, self.slurm.now())
        assert lease is not None
        self.token = lease.token
        applier = Applier(store=self.store, reader=self.slurm, actuator=self.slurm, clock=self.slurm)
        self.cards: Any = None
        desk = SliceDesk(
            store=self.store, applier=applier, actuator=self.slurm, reader=self.slurm, placeholders=self.slurm,
            agents=self.agents, clock=self.slurm, owners={0}, on_cards=self._see,
        )  # fmt: skip
        self.controller = Controller(
            store=self.store, reader=self.slurm, applier=applier, clock=self.slurm, slices=desk
        )

    def _see(self, cards: object, unheard: int) -> None:
        self.cards, self.unheard = cards, unheard

    def _on_event(self, event: Any) -> None:
        if take_in(self.store, event, event.job_id, self.slurm.now()) is None:
            stored = Event(at_s=event.at_s, source=f"agent:{event.node}", kind=event.event, job_id=event.job_id,
                           detail=dict(event.detail))  # fmt: skip
            self.store.record_event(stored, dedup=f"{event.node}/{event.boot}/{event.seq}")

    def submit(self, queue: str = "research", **wants: Any) -> str:
        return self.slurm.submit(queue, gpus=0, **{"cpus": 1, **wants})

    def step(self, seconds: float = 1.0) -> None:
        """A cycle; then Slurm's scheduler runs, and hooks where jobs start."""
        self.controller.run(self.token)
        self.slurm.tick(seconds)
        for job_id, record in list(self.slurm.records.items()):
            run = f"{job_id}.{record.restarts}"
            if record.state is not JobState.RUNNING or record.slurm_state != "RUNNING" or run in self.seen:
                continue
            self.seen.add(run)
            nodes = [part.node for part in record.placement]
            if record.name.startswith("slurmext-slices-"):
                taken = {gpu for gpus in self.placed.values() for gpu in gpus}
                gpu = next(uuid for uuid in self.agents.nodes[nodes[0]] if uuid not in taken)
                self.placed[job_id] = [gpu]
                self.agents.started(nodes[0], job_id, self.agents.nodes[nodes[0]][gpu].minor)
            elif record.annotation is not None and record.annotation.sliced:
                for node in nodes:
                    self.agents.prolog(node, job_id)
        for (node, _), (job_id, _) in list(self.agents.live.items()):
            if self.slurm.records[job_id].state is not JobState.RUNNING:
                self.agents.epilog(node, job_id)
        for job_id in list(self.placed):
            if self.slurm.records[job_id].slurm_state != "RUNNING":
                del self.placed[job_id]

    def steps(self, count: int, seconds: float = 1.0) -> None:
        for _ in range(count):
            self.step(seconds)

    def end(self, job_id: str, state: str = "COMPLETED") -> None:
        nodes = [part.node for part in self.slurm.records[job_id].placement]
        self.slurm.end(job_id, state)
        for node in nodes:
            self.agents.epilog(node, job_id)

    def state(self, job_id: str) -> str:
        return self.slurm.records[job_id].slurm_state

    def row(self, job_id: str) -> Any:
        return self.store.jobs(job_ids=[job_id], active=False)[-1]

    def slices(self, job_id: str | None = None, *, active: bool = True) -> Any:
        return self.store.slices(active=active, job_ids=None if job_id is None else [job_id])

    def states(self, job_id: str) -> list[SliceState]:
        return [record.state for record in self.slices(job_id, active=False)]

    def why(self) -> str:
        """Everything, for a test that fails."""
        return f"{self.slurm.log} {self.store.holds(active=False)} {self.store.slices(active=False)}"
