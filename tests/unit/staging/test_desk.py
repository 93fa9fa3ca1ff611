"""slurmextd's desk of models: who is told to take what from whom, and what jobs hear."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from slurmext.model.cluster import Annotation, ClusterView, JobRecord
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Plan, QueueUsage, Release
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.model.staged_model import ModelEntry
from slurmext.model.topology import Topology
from slurmext.policy.planner import Planner
from slurmext.service.staging.ahead import Decided
from slurmext.service.staging.desk import StageDesk
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import Progress, StageOrder, progress_to_json
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.preload import Preload, Registered
from slurmext.testing.memory_store import MemoryStore

ALICE, BOB = 4_000_001, 4_000_002
NODES = ("n1", "n2", "n3", "n4")
SIZE = 1 << 30
NOTHING = Decided(snapshot=Snapshot(now_s=0, nodes=()), plan=Plan())


class Agents:
    """Writes down what agents are told."""

    def __init__(self) -> None:
        self.here = dict.fromkeys(NODES, "10.0.0.1")
        self.staged: dict[str, StageOrder] = {}
        self.orders: list[tuple[str, StageOrder]] = []
        self.acts: list[tuple[str, str, str]] = []
        self.preloads: dict[tuple[str, int], tuple[Preload, ...]] = {}
        self.known: dict[str, tuple[Registered, ...]] = {}

    def connected(self) -> Mapping[str, str]:
        return dict(self.here)

    def stage(self, node: str, order: StageOrder) -> bool:
        self.staged[node] = order
        self.orders.append((node, order))
        return node in self.here

    def act(self, node: str, act: str, key: ModelKey, _tier: TierKind, _holder: str = "") -> bool:
        self.acts.append((node, act, str(key)))
        return node in self.here

    def preload(self, node: str, job_id: int, models: Sequence[Preload]) -> bool:
        self.preloads[node, job_id] = tuple(models)
        return node in self.here

    def catalogue(self, nodes: Collection[str], models: Sequence[Registered]) -> None:
        self.known.update(dict.fromkeys(nodes, tuple(models)))

    def sources(self, node: str) -> list[str]:
        return [source.peer.node for source in self.staged[node].sources]


class Clock:
    def __init__(self) -> None:
        self.s = 1e9

    def now(self) -> float:
        return self.s


class Stage:
    """A desk with agents of four nodes that say what a test has them say."""

    def __init__(self) -> None:
        self.store, self.agents, self.clock = MemoryStore(), Agents(), Clock()
        self.topology = Topology()
        self.desk = StageDesk(
            store=self.store, agents=self.agents, clock=self.clock, topology=lambda: self.topology
        )  # fmt: skip
        for node in NODES:
            self.says(node)

    def model(
        self, name: str = "org/net", revision: str = "v1", *, public: bool = False, uid: int = ALICE
    ) -> ModelEntry:
        key = ModelKey(name, revision)
        entry = ModelEntry(
            key=key, owner="alice", uid=uid, public=public, size=SIZE, fingerprint=f"{name}{revision}".encode().hex(),
            storage=f"/shared/{name}/{revision}", created_s=self.clock.s,
        )  # fmt: skip
        return self.store.models.add(entry, b"")

    def says(self, node: str, *progress: Progress, **more: object) -> None:
        """An agent's inventory; half a second later than what was said before."""
        self.clock.s += 0.5
        said: dict[str, Any] = {"port": 6832, "link_bps": 1e10, "models": [progress_to_json(one) for one in progress]}
        self.desk.said(node, {**said, **more})


def progress(entry: ModelEntry, part: float, **more: Any) -> Progress:
    state = StageState.COMPLETE if part >= 1 else StageState.RECEIVING
    values: dict[str, Any] = {
        "key": entry.key, "tier": TierKind.MEMORY, "state": state, "ready_bytes": int(part * SIZE), "size": SIZE,
        "rate_bps": 1e10, "fingerprint": entry.fingerprint,
    }  # fmt: skip
    return Progress(**{**values, **more})


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_one_node_reads_storage_and_the_others_hang_on_it(stage: Stage) -> None:
    """The owner's rights are what storage is read with, and who may read the copies goes with the order."""
    entry = stage.model()
    stage.desk.wanted(entry.key, NODES, TierKind.MEMORY, "alice")
    readers = [node for node in NODES if STORAGE in stage.agents.sources(node)]
    assert len(readers) == 1
    assert sorted(stage.agents.staged) == sorted(NODES)
    order = stage.agents.staged["n2"]
    assert (order.owner, order.access.uid, str(order.storage)) == (ALICE, ALICE, "/shared/org/net/v1")


def test_storage_that_two_nodes_cannot_read_is_given_up_and_prologs_hear_why(stage: Stage) -> None:
    """No third node tries; a job that waits starts with its fallback at once."""
    entry = stage.model()
    stage.desk.asked("n4", 7, ALICE, ["org/net"])
    stage.desk.wanted(entry.key, NODES, TierKind.MEMORY, "alice")
    tried: list[str] = []
    for _ in range(2):
        reader = next(node for node in NODES if node not in tried and STORAGE in stage.agents.sources(node))
        tried.append(reader)
        for _ in range(6):
            stage.says(reader, progress(entry, 0, lost={STORAGE: "permission denied"}))
    assert {act[:2] for act in stage.agents.acts} == {(node, "cancel") for node in NODES}
    [told] = stage.agents.preloads["n4", 7]
    assert told.storage == "/shared/org/net/v1"
    assert "permission denied" in told.why


def test_a_node_that_went_away_is_given_the_rest_when_it_is_back(stage: Stage) -> None:
    """What hung on it takes another source meanwhile."""
    entry = stage.model()
    stage.says("n1", progress(entry, 1))
    stage.desk.wanted(entry.key, ["n2", "n3"], TierKind.MEMORY, "alice")
    first, second = sorted(["n2", "n3"], key=lambda node: "n1" not in stage.agents.sources(node))
    assert stage.agents.sources(second) == [first]
    del stage.agents.here[first]
    stage.agents.staged.clear()
    stage.desk.tick()
    assert stage.agents.sources(second) == ["n1"]
    assert all(replica.node != first for replica in stage.store.models.replicas())
    stage.agents.here[first] = "10.0.0.1"
    stage.says(first, progress(entry, 0.5))
    assert first in stage.agents.staged


def test_an_nvlink_domain_takes_a_model_once_from_outside(stage: Stage) -> None:
    """Within it nodes take it from each other, at the address that is meant for that and beside their network links."""
    entry = stage.model()
    near = {"domain_bps": 4e11, "link_bps": 1e9}
    for node, domain in zip(NODES, ("a", "b", "a", "b"), strict=True):
        stage.says(node, domain=domain, domain_host=f"{node}-nvl", **near)
    stage.desk.wanted(entry.key, NODES, TierKind.MEMORY, "alice")
    taken = {node: stage.agents.sources(node) for node in NODES}
    domains = {"n1": "a", "n3": "a", "n2": "b", "n4": "b"}
    inside = [node for node, sources in taken.items() if [domains.get(each) for each in sources] == [domains[node]]]
    assert len(inside) == 2
    assert {domains[node] for node in inside} == {"a", "b"}
    for node in inside:
        [source] = stage.agents.staged[node].sources
        assert source.peer.address == f"{source.peer.node}-nvl:6832"
    [outside] = [node for node in NODES if node not in inside and taken[node] != [STORAGE]]
    assert stage.agents.staged[outside].sources[0].peer.address == "10.0.0.1:6832"


@pytest.mark.parametrize(
    ("topology", "said", "places"),
    [
        (Topology(racks=dict(zip(NODES, "abab", strict=True))), "", "abab"),
        (Topology(domains=dict(zip(NODES, "abab", strict=True))), "", "abab"),
        (Topology(domains=dict(zip(NODES, "abab", strict=True))), "abba", "abba"),
    ],
    ids=["switches", "blocks", "NVML"],
)
def test_what_is_near_is_entered_once(stage: Stage, topology: Topology, said: str, places: str) -> None:
    """A leaf switch, or a block of Slurm's where the agents' NVML does not know better."""
    entry = stage.model()
    stage.topology = topology
    for node, domain in zip(NODES, said, strict=False):
        stage.says(node, domain=domain)
    stage.desk.run(NOTHING, ClusterView(read_s=0))
    stage.desk.wanted(entry.key, NODES, TierKind.MEMORY, "alice")
    place = dict(zip(NODES, places, strict=True))
    links = [(node, source) for node in NODES for source in stage.agents.sources(node) if source != STORAGE]
    assert len(links) == len(NODES) - 1
    assert sum(place[node] != place[source] for node, source in links) == 1


def test_two_transfers_do_not_count_on_the_same_link(stage: Stage) -> None:
    """A model that two nodes have is taken from the one that is not busy sending another."""
    one, other = stage.model("org/one"), stage.model("org/other")
    stage.says("n1", progress(one, 1), progress(other, 1))
    stage.says("n2", progress(other, 1))
    stage.desk.wanted(one.key, ["n3"], TierKind.MEMORY, "alice")
    assert stage.agents.sources("n3") == ["n1"]
    stage.desk.wanted(other.key, ["n4"], TierKind.MEMORY, "alice")
    assert stage.agents.sources("n4") == ["n2"]


def test_a_job_keeps_the_revision_it_was_first_seen_with_and_others_hear_nothing(stage: Stage) -> None:
    """A revision registered while the job starts does not end up on half of its nodes."""
    stage.model(revision="v1")
    stage.desk.asked("n1", 7, ALICE, ["org/net"])
    stage.model(revision="v2")
    stage.clock.s += 60
    stage.desk.asked("n2", 7, ALICE, ["org/net"])
    stage.desk.asked("n2", 8, ALICE, ["org/net"])
    stage.desk.asked("n3", 9, BOB, ["org/net@v1"])
    assert [str(stage.agents.preloads[place][0].key) for place in (("n1", 7), ("n2", 7), ("n2", 8))] == [
        "org/net@v1", "org/net@v1", "org/net@v2",
    ]  # fmt: skip
    [refused] = stage.agents.preloads["n3", 9]
    assert refused.key is None
    assert not refused.storage
    assert "no model 'org/net@v1' that you may read" in refused.why


def test_nodes_are_told_before_the_job_is_released_and_what_it_waits_for_is_said(stage: Stage) -> None:
    """A released job's nodes get its models; one that waits hears of a name that is wrong."""
    stage.model(public=True)
    view = ClusterView(
        read_s=stage.clock.s,
        jobs=tuple(
            JobRecord(slurm_id=number, raw_id=number, uid=BOB, state=JobState.PENDING,
                      annotation=Annotation(preload=(name,)))
            for number, name in (("1", "org/net"), ("2", "org/ner"))
        ),
    )  # fmt: skip
    needs = stage.desk.needs(view)
    assert needs["1"].why == ""
    assert "the nearest: org/net" in needs["2"].why
    jobs = tuple(
        Job(id=number, queue="q", state=JobState.PENDING, blocked=needs[number].why or None) for number in ("1", "2")
    )
    snapshot = Snapshot(now_s=stage.clock.s, nodes=tuple(Node(name=name, gpus=2) for name in NODES), jobs=jobs)
    release = Release(job="1", placement=(NodeGpus(node="n3", gpus=1),), queue_usage=QueueUsage.GUARANTEED)
    said = stage.desk.run(Decided(snapshot=snapshot, plan=Plan(release=(release,))), view)
    assert set(stage.agents.staged) == {"n3"}
    assert str(stage.agents.preloads["n3", 1][0].key) == "org/net@v1"
    assert said["1"] == "org/net@v1 comes to n3 0 %"
    assert set(stage.agents.known) == set(NODES)


def test_a_model_that_is_not_registered_any_more_leaves_and_a_pinned_one_comes(stage: Stage) -> None:
    """What is held by a job stays until that ends."""
    gone, kept = stage.model("org/gone"), stage.model("org/kept")
    stage.says("n1", progress(gone, 1))
    stage.says("n2", progress(gone, 1, pins=("job-7",)))
    stage.store.models.remove(gone.key)
    stage.store.models.pin(kept.key, ["n3"])
    stage.desk.changed()
    stage.desk.run(NOTHING, ClusterView(read_s=0))
    assert stage.agents.acts == [("n1", "evict", "org/gone@v1")]
    assert set(stage.agents.staged) == {"n3"}


def test_a_model_registered_a_moment_ago_is_not_taken_for_one_that_is_not(stage: Stage) -> None:
    """What is registered is looked up again before anything is removed."""
    stage.desk.run(NOTHING, ClusterView(read_s=0))
    entry = stage.model()
    stage.says("n1", progress(entry, 1))
    stage.desk.run(NOTHING, ClusterView(read_s=0))
    assert stage.agents.acts == []


def test_a_source_that_gave_the_model_up_is_no_source_any_more(stage: Stage) -> None:
    """Room was needed there while others took the model from it: they read storage, or whoever else has it."""
    entry = stage.model()
    stage.says("n1", progress(entry, 1))
    stage.desk.wanted(entry.key, ["n2"], TierKind.MEMORY, "root")
    assert stage.agents.sources("n2") == ["n1"]
    stage.says("n1")
    assert stage.agents.sources("n2") == [STORAGE]


def test_a_job_starts_on_a_node_with_its_model_only_where_that_costs_nothing() -> None:
    """Of nodes that are alike the one with the model is taken; an empty one is not broken up for it."""

    def placed(*running: Job, warm: str) -> str:
        job = Job(id="1", queue="q", state=JobState.PENDING, warm=(warm,))
        snapshot = Snapshot(
            now_s=0, nodes=tuple(Node(name=name, gpus=2) for name in NODES), queues=(Queue(path="q", guaranteed=8),),
            jobs=(job, *running),
        )  # fmt: skip
        [release] = Planner().plan(snapshot).release
        return release.placement[0].node

    half = Job(id="2", queue="q", state=JobState.RUNNING, placement=(NodeGpus(node="n2", gpus=1),))
    assert placed(warm="n3") == "n3"
    assert placed(half, warm="n2") == "n2"
    assert placed(half, warm="n3") == "n2"
    leaving = Job(id="3", queue="q", state=JobState.COMPLETING, placement=(NodeGpus(node="n3", gpus=2),))
    assert placed(leaving, warm="n3") == "n1"


def test_models_of_jobs_that_may_start_on_a_node_do_not_drive_each_other_out(stage: Stage) -> None:
    """What the pool has no room for beside the models of those who wait longer is not brought ahead; released, it is."""
    models = [stage.model(f"org/m{number}", public=True) for number in range(3)]
    stage.says("n1", room={"memory": [0, int(2.5 * SIZE)]})
    for node in NODES[1:]:
        del stage.agents.here[node]
    stage.desk.tick()
    records = tuple(
        JobRecord(slurm_id=str(number), raw_id=str(number), uid=BOB, state=JobState.PENDING, required_nodes="n1",
                  priority=1, annotation=Annotation(preload=(entry.key.name,)))
        for number, entry in enumerate(models)
    )  # fmt: skip
    stage.desk.run(NOTHING, ClusterView(read_s=0, jobs=records))
    assert [str(order.key) for _, order in stage.agents.orders] == ["org/m0@v1", "org/m1@v1"]
    job = Job(id="2", queue="q", state=JobState.PENDING)
    release = Release(job="2", placement=(NodeGpus(node="n1", gpus=1),), queue_usage=QueueUsage.GUARANTEED)
    snapshot = Snapshot(now_s=0, nodes=(Node(name="n1", gpus=1),), jobs=(job,))
    stage.desk.run(Decided(snapshot=snapshot, plan=Plan(release=(release,))), ClusterView(read_s=0, jobs=records))
    assert str(stage.agents.orders[-1][1].key) == "org/m2@v1"


def test_an_agent_that_is_another_one_is_told_again(stage: Stage) -> None:
    """It was killed and started anew within a moment: it knows of no order, and who receives from it, no port."""
    entry = stage.model()
    stage.desk.wanted(entry.key, NODES, TierKind.MEMORY, "alice")
    for node in NODES:
        stage.says(node, progress(entry, 0.5))
    reader = next(node for node in NODES if STORAGE in stage.agents.sources(node))
    stage.agents.staged.clear()
    stage.desk.greeted(reader, {"port": 7000, "link_bps": 1e10, "models": [progress_to_json(progress(entry, 0.5))]})
    assert reader in stage.agents.staged
    peers = [source.peer for order in stage.agents.staged.values() for source in order.sources]
    assert {peer.address.rpartition(":")[2] for peer in peers if peer.node == reader} == {"7000"}
    last = next(node for node in NODES if node != reader)
    stage.desk.greeted(last, {"port": 7001, "link_bps": 1e10, "models": [progress_to_json(progress(entry, 0.5))]})
    assert stage.agents.staged[last].sources
