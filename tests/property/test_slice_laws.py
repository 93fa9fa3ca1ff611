"""Laws of the slice planner over worlds that Hypothesis makes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement, permutations, product
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmext.model.job import JobState
from slurmext.model.queue import Queue
from slurmext.model.slicing import (
    Geometry,
    GpuUse,
    SlicedGpu,
    SliceJob,
    SliceNeed,
    SliceNode,
    SliceSettings,
    SliceSnapshot,
)
from slurmext.policy.slicing import SlicePlanner, plan_slices
from slurmext.policy.slicing.kinds import Kind
from slurmext.testing.nvml.cards import card_of
from slurmext.testing.slice_laws import violations
from slurmext.testing.slice_world import step
from slurmext.testing.slicing import geometry_of, gpus
from tests.property.slice_worlds import fits, geometries, slice_worlds

MANY = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@given(slice_worlds())
@MANY
def test_no_plan_breaks_a_law(world: SliceSnapshot) -> None:
    """No illegal place, no overlap, no busy slice touched, no GPU in two uses, no limit passed, every reason told."""
    assert violations(world, plan_slices(world)) == []


@given(slice_worlds(), st.randoms(use_true_random=False))
@FEW
def test_the_order_of_lists_changes_nothing(world: SliceSnapshot, random: Random) -> None:
    """The same plan however the snapshot is ordered, and from a planner that planned before."""

    def mixed(rows: tuple) -> tuple:
        rows_ = list(rows)
        random.shuffle(rows_)
        return tuple(rows_)

    shuffled = replace(
        world, nodes=mixed(world.nodes), gpus=mixed(world.gpus), jobs=mixed(world.jobs), queues=mixed(world.queues)
    )
    planner = SlicePlanner()
    assert planner.plan(world) == plan_slices(shuffled) == planner.plan(shuffled)


@given(slice_worlds())
@FEW
def test_a_world_keeps_the_laws_while_plans_happen(world: SliceSnapshot) -> None:
    """Over some rounds, jobs ending in between, no plan breaks a law; then it comes to rest: no GPU to and fro."""
    for number in range(6):
        made = plan_slices(world)
        assert violations(world, made) == [], number
        ends = [job.id for job in world.jobs if job.state is JobState.RUNNING][:number]
        world = step(world, made, ends=ends)
    quiet = 0
    for _ in range(30):
        made = plan_slices(world)
        quiet = 0 if made.reserve or made.take_gpu or made.return_gpu or made.evict or made.move else quiet + 1
        world = step(replace(world, wanted_gpus={}), made, after_s=0)
    assert quiet > 3, made


# --- against brute force ----------------------------------------------------------------------------------------------


def _all_sets(cut: Geometry, most: int) -> set[frozenset[tuple[str, int]]]:
    """Every legal set of instances of the card, found by trying everything."""
    places = [(profile.name, start) for profile in cut.profiles for start in profile.starts]
    found: set[frozenset[tuple[str, int]]] = {frozenset()}
    layer = set(found)
    for _ in range(most):
        layer = {
            frozenset((*there, place))
            for there in layer
            for place in places
            if place not in there and fits(cut, [*there, place])
        }
        found |= layer
    return found


def _one_card(cut: Geometry, there: frozenset[tuple[str, int]], need: SliceNeed) -> SliceSnapshot:
    from slurmext.model.slicing import Instance, InstanceState

    instances = tuple(Instance(profile=name, start=start, state=InstanceState.FOREIGN) for name, start in sorted(there))
    card = SlicedGpu(node="n", uuid="g", use=GpuUse.MIG, memory_mib=9000, geometry=cut, instances=instances)
    job = SliceJob(id="a", queue="q", need=need, submitted_s=0)
    return SliceSnapshot(nodes=(SliceNode(name="n"),), gpus=(card,), queues=(Queue(path="q"),), jobs=(job,))


@given(geometries(), st.data())
@MANY
def test_a_place_is_found_exactly_when_there_is_one(cut: Geometry, data: st.DataObject) -> None:
    """On any card in any state: as many slices of a profile start as trying everything can place."""
    sets = sorted(_all_sets(cut, 3), key=sorted)
    there = data.draw(st.sampled_from(sets))
    profile = data.draw(st.sampled_from(cut.profiles))
    most = 0
    layer = {there}
    while layer:
        layer = {
            frozenset((*one, (profile.name, start)))
            for one in layer
            for start in profile.starts
            if (profile.name, start) not in one and fits(cut, [*one, (profile.name, start)])
        }
        most += bool(layer)
    for count in range(1, most + 2):
        made = plan_slices(_one_card(cut, there, SliceNeed(profile=profile.name, per_node=count)))
        assert bool(made.reserve) == (count <= most), (there, profile.name, count, most)


def test_every_state_of_small_cards_is_known_exactly() -> None:
    """A30 and H100: from every legal state, the legal next places are those that trying everything finds."""
    for gpu_type in ("a30", "h100"):
        cut = geometry_of(card_of(gpu_type))
        assert cut is not None
        kind = Kind(cut)
        for there in _all_sets(cut, 4):
            state = kind.empty
            for name, start in sorted(there):
                spot = kind.spot(name, start)
                assert spot is not None
                state = kind.put(state, spot)
            for number, profile in enumerate(cut.profiles):
                legal = {start for start in profile.starts if fits(cut, [*there, (profile.name, start)])}
                assert {spot.start for spot in kind.options(state, number)} == legal, (sorted(there), profile.name)


def test_the_sets_a_card_can_hold_are_those_of_the_two_counts() -> None:
    """On 8 units and 7 slices a multiset of plain profiles is legal exactly when both counts allow it."""
    cut = geometry_of(card_of("h100"))
    assert cut is not None
    plain = [profile for profile in cut.profiles if profile.automatic]
    kind = Kind(cut)
    for size in range(1, 5):
        for chosen in combinations_with_replacement(plain, size):
            units, slices = sum(p.memory_units for p in chosen), sum(p.compute_slices for p in chosen)
            possible = (
                any(
                    fits(cut, list(zip([p.name for p in order], starts, strict=True)))
                    for order in set(permutations(chosen, size))
                    for starts in product(*[p.starts for p in order])
                )
                if units <= 8
                else False
            )
            counted = units <= 8 and slices <= 7 and all(chosen.count(p) <= p.most for p in chosen)
            assert possible == counted, [p.name for p in chosen]
    assert kind.count(kind.empty, kind.number["1g.10gb"]) == 7


# --- over time --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from(["7g.80gb", "4g.40gb", "3g.40gb"]))
@FEW
def test_small_requests_do_not_starve_a_large_one(seed: int, large: str) -> None:
    """Small jobs come without end, as many as fit and more; the large one starts all the same."""
    random = Random(seed)
    cards = (*gpus("n1", "h100", 1), *gpus("n2", "h100", 1))
    world = SliceSnapshot(
        now_s=0,
        settings=SliceSettings(hold_after_s=60),
        nodes=(SliceNode(name="n1"), SliceNode(name="n2")),
        gpus=cards,
        queues=(Queue(path="q"), Queue(path="r")),
    )
    number = 0
    for round_ in range(80):
        small: list[SliceJob] = []
        for _ in range(4):
            number += 1
            queue, limit = random.choice(["q", "r"]), random.choice([None, 100])
            need = SliceNeed(profile=random.choice(["1g.10gb", "1g.20gb", "2g.20gb"]))
            small.append(SliceJob(id=f"s{number}", queue=queue, need=need, submitted_s=world.now_s, time_limit_s=limit))
        if round_ == 10:
            small.append(SliceJob(id="L", queue="q", need=SliceNeed(profile=large), submitted_s=world.now_s))
        waiting = [job for job in world.jobs if job.state is JobState.PENDING and job.id != "L"]
        jobs = [job for job in world.jobs if job not in waiting[:-8]]
        world = replace(world, jobs=(*jobs, *small))
        made = plan_slices(world)
        if any(reserve.job == "L" for reserve in made.reserve):
            return
        ends = [job.id for job in world.jobs if job.state is JobState.RUNNING and random.random() < 0.2]
        world = step(world, made, ends=ends)
    raise AssertionError("the large request never started")
