"""The fair share is the weighted max-min share, and it is where the planner goes."""

from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmext.model.job import Job, JobState
from slurmext.model.node import Node
from slurmext.model.queue import FenceMode, Queue
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.planner import plan
from slurmext.policy.share import Stake, fair_shares, filled
from slurmext.policy.tree import ROOT, QueueTree, queue_tree

MANY = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LEAVES = ("a", "b/x", "b/y", "c/x/p", "c/x/q", "c/y")
PARENTS = ("b", "c", "c/x")


@st.composite
def queues(draw: st.DrawFn, *, simple: bool = False) -> tuple[Queue, ...]:
    """A tree whose guarantees add up; `simple` leaves out what keeps GPUs from being lent."""
    given = {leaf: draw(st.integers(0, 8)) for leaf in LEAVES}
    found: list[Queue] = []
    for path in (*LEAVES, *PARENTS):
        below = sum(gpus for leaf, gpus in given.items() if leaf == path or leaf.startswith(f"{path}/"))
        found.append(
            Queue(
                path=path,
                guaranteed=below,
                max=draw(st.sampled_from([None, None, below, below + 3, below + 9])),
                weight=draw(st.sampled_from([0, 1, 1, 2, 3])),
                priority=draw(st.sampled_from([0, 0, 0, 1])),
                reserved=0 if simple else draw(st.sampled_from([0, 0, below])),
                lending_limit=None if simple else draw(st.sampled_from([None, None, 0, 2])),
                fence=FenceMode.NONE if simple else draw(st.sampled_from([FenceMode.NONE] * 4 + list(FenceMode))),
            )
        )
    return tuple(found)


def demands(least: int = 0) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({leaf: st.integers(least, 40) for leaf in LEAVES})


def pasts() -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from([*LEAVES, *PARENTS]), st.floats(0, 20), max_size=3)


def shared(
    tree: QueueTree, demand: dict[str, int], gpus: int, headroom: int = 0, past: dict[str, float] | None = None
) -> dict[str, Stake]:
    wanted = {tree.leaf_of[leaf]: want for leaf, want in demand.items()}
    found = fair_shares(tree, wanted, gpus, headroom=headroom, past=past)
    return {stake.path: stake for stake in found}


@MANY
@given(queues(), demands(), st.integers(0, 120), st.sampled_from([0, 0, 5]))
def test_what_is_there_is_handed_out_and_nobody_gets_more_than_it_wants(
    tree_queues: tuple[Queue, ...], demand: dict[str, int], gpus: int, headroom: int
) -> None:
    """Shares add up at every level, stay within demand, max and fence, and idle only what is kept or wanted by nobody."""
    tree = queue_tree(Snapshot(queues=tree_queues))
    stakes = shared(tree, demand, gpus, headroom)
    limits = {queue.path: queue for queue in tree_queues}
    for path, stake in stakes.items():
        if path:
            assert stake.share <= stake.wants + 1e-6
            assert limits[path].max is None or stake.share <= limits[path].max + 1e-6
            if limits[path].fence in {FenceMode.IN, FenceMode.BOTH}:
                assert stake.share <= stake.guaranteed + 1e-6
    for node in tree.nodes:
        children = [stakes[tree.nodes[child].path] for child in node.children]
        if children:
            given_out = sum(stake.share for stake in children)
            here = stakes[node.path]
            there = here.share
            assert given_out <= there + 1e-6
            wanted = sum(stake.wants for stake in children)
            spared = headroom if node.index == ROOT else 0
            assert given_out >= min(wanted, there - spared) - 1e-6
            owed = sum(min(stake.wants, stake.guaranteed) for stake in children)
            assert given_out <= max(owed, there - spared) + 1e-6


@MANY
@given(queues(), demands(), st.integers(0, 120))
def test_who_wants_more_borrows_no_less_for_its_weight_than_its_peers(
    tree_queues: tuple[Queue, ...], demand: dict[str, int], gpus: int
) -> None:
    """Max-min by weight among siblings of one priority; the higher priority is served first."""
    tree = queue_tree(Snapshot(queues=tree_queues))
    stakes = shared(tree, demand, gpus)
    for node in tree.nodes:
        children = [stakes[tree.nodes[child].path] for child in node.children]
        for poor in children:
            if poor.share >= poor.wants - 1e-6:
                continue
            borrowed = max(0.0, poor.share - poor.guaranteed)
            for rich in children:
                lent = rich.share - rich.guaranteed
                if rich is poor or lent <= 1e-6:
                    continue
                assert rich.priority >= poor.priority
                if rich.priority == poor.priority and poor.weight > 0:
                    assert rich.weight > 0
                    assert lent / rich.weight <= borrowed / poor.weight + 1e-6


@MANY
@given(queues(), demands(), st.integers(60, 120))
def test_a_guarantee_that_is_wanted_is_in_the_share(
    tree_queues: tuple[Queue, ...], demand: dict[str, int], gpus: int
) -> None:
    """Where the cluster has all that is promised, every leaf's share covers what it wants of its guarantee."""
    tree = queue_tree(Snapshot(queues=tree_queues))
    promised = sum(queue.guaranteed or 0 for queue in tree_queues if "/" not in queue.path)
    stakes = shared(tree, demand, max(gpus, promised))
    for leaf, want in demand.items():
        assert stakes[leaf].share >= min(want, stakes[leaf].guaranteed) - 1e-6


@MANY
@given(queues(simple=True), demands(), st.integers(0, 12), pasts(), st.sampled_from([0, 0, 7]))
def test_the_planner_hands_out_the_fair_share(
    tree_queues: tuple[Queue, ...], demand: dict[str, int], nodes: int, past: dict[str, float], headroom: int
) -> None:
    """From an empty cluster jobs of one GPU are started so that every queue has its share, less than a GPU off a level."""
    tree = queue_tree(Snapshot(queues=tree_queues))
    gpus = 8 * nodes
    stakes = shared(tree, demand, gpus, headroom, past)
    jobs = tuple(
        Job(id=f"{leaf}-{number:02}", queue=leaf, state=JobState.PENDING)
        for leaf, count in demand.items()
        for number in range(count)
    )
    snapshot = Snapshot(
        settings=Settings(past_factor=1, headroom_gpus=headroom), past_gpus=past, queues=tree_queues, jobs=jobs,
        nodes=tuple(Node(name=f"n{number:02}", gpus=8) for number in range(nodes)),
    )  # fmt: skip
    started = [release.job.split("-")[0] for release in plan(snapshot).release]
    promised = sum(queue.guaranteed or 0 for queue in tree_queues if "/" not in queue.path)
    for leaf in LEAVES if gpus >= promised else ():
        off = 1.0 * (leaf.count("/") + 1)
        assert math.isclose(started.count(leaf), stakes[leaf].share, abs_tol=off), (leaf, stakes[leaf])
    assert math.isclose(len(started), sum(stakes[path].share for path in ("a", "b", "c")), abs_tol=1e-6)


@MANY
@given(
    st.floats(0, 100), st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 5), st.sampled_from([0, 0, 3])), max_size=8)
)
def test_vessels_fill_to_one_level(amount: float, vessels: list[tuple[float, float, float]]) -> None:
    """All that is there is poured, into vessels as high for their weight as the others or full."""
    wanted, weights, floor = [v[0] for v in vessels], [v[1] for v in vessels], [v[2] for v in vessels]
    given_out = filled(amount, wanted, weights, floor)
    assert math.isclose(sum(given_out), min(amount, sum(wanted)), abs_tol=1e-6)
    found = list(zip(given_out, wanted, weights, floor, strict=True))
    level = min((low + got / weight for got, want, weight, low in found if got < want - 1e-6), default=math.inf)
    for got, _, weight, low in found:
        assert got < 1e-6 or low + got / weight <= level + 1e-6
