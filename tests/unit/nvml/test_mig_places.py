"""What fits where: each card's profiles and placements, through unmodified pynvml."""

from __future__ import annotations

import ctypes
import itertools

import pynvml
import pytest

from slurmext.testing.nvml.cards import CARDS

from .mig_calls import MIG_CARDS, NewNode, listed, make, node, refused


@pytest.mark.parametrize("card", MIG_CARDS)
def test_profiles_are_the_cards(new_node: NewNode, card: str) -> None:
    """Asked about by number, created by id; unknown numbers end the list, missing ones are holes in it."""
    _, (gpu,) = node(new_node, card)
    found: dict[str, tuple[int, int, int]] = {}
    for number in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, number)
        except pynvml.NVMLError_NotSupported:
            continue
        found[info.name.removeprefix("MIG ")] = (number, info.id, info.sliceCount)
        old = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, number, version=1)
        assert (old.id, old.memorySizeMB) == (info.id, info.memorySizeMB)
        assert pynvml.nvmlDeviceGetGpuInstanceProfileInfoById(gpu, info.id).name == info.name
    assert found == {row.name: (row.number, row.id, row.slices) for row in CARDS[card].profiles}
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT)


@pytest.mark.parametrize("card", MIG_CARDS)
def test_placements_and_what_fits(new_node: NewNode, card: str) -> None:
    """An empty card takes as many of a profile as the profile says, each at one of its places, with ids of its own."""
    _, (gpu,) = node(new_node, card)
    for row in CARDS[card].profiles:
        count = ctypes.c_uint(0)
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, row.id, None, ctypes.byref(count))
        places = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, row.id, places, ctypes.byref(count))
        assert [(one.start, one.size) for one in places] == [(start, row.units) for start in row.starts]
        assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, row.id) == row.most
        made = [pynvml.nvmlDeviceCreateGpuInstance(gpu, row.id) for _ in range(row.most)]
        assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, row.id) == 0
        infos = [pynvml.nvmlGpuInstanceGetInfo(one) for one in made]
        assert len({info.id for info in infos}) == row.most
        assert {info.placement.start for info in infos} <= set(row.starts)
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            pynvml.nvmlDeviceCreateGpuInstance(gpu, row.id)
        assert len(listed(gpu, row.id)) == row.most
        for one in made:
            pynvml.nvmlGpuInstanceDestroy(one)


def test_ids_come_from_a_pool_for_each_fraction(new_node: NewNode) -> None:
    """As observed on A100 and H100: the whole 0, halves 1 and 2, quarters 3 to 6, eighths 7 to 14."""
    _, (gpu,) = node(new_node, "h100")
    for profile, ids in ((0, {0}), (9, {1, 2}), (14, {3, 4, 5}), (15, {3, 4, 5, 6}), (19, set(range(7, 14)))):
        made = [pynvml.nvmlDeviceCreateGpuInstance(gpu, profile) for _ in ids]
        assert {pynvml.nvmlGpuInstanceGetInfo(one).id for one in made} == ids
        for one in made:
            pynvml.nvmlGpuInstanceDestroy(one)


def test_illegal_and_taken_places_look_the_same(new_node: NewNode) -> None:
    """INSUFFICIENT_RESOURCES for a place that is taken, is not legal, or has no compute slices left."""
    _, (gpu,) = node(new_node, "h100")
    make(gpu, 9, 0, 4)
    for profile, start, size in ((19, 0, 1), (9, 0, 4), (14, 5, 2), (19, 7, 1)):
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            make(gpu, profile, start, size)
    make(gpu, 9, 4, 4)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        make(gpu, 9, 4, 2)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        make(gpu, 77, 0, 1)


def test_every_layout_of_a_card_with_eight_units(new_node: NewNode) -> None:
    """Whatever can be made is within 8 memory units and 7 compute slices, and every such set can be made: 78 sets."""
    _, (gpu,) = node(new_node, "a100")
    plain = [row for row in CARDS["a100"].profiles if "+" not in row.name]
    reached: set[tuple[int, ...]] = set()

    def explore(counts: tuple[int, ...], first: int) -> None:
        reached.add(counts)
        for at, row in enumerate(plain):
            for start in row.starts:
                if start < first:
                    continue
                try:
                    made = make(gpu, row.id, start, row.units)
                except pynvml.NVMLError_InsufficientResources:
                    continue
                explore(tuple(count + (here == at) for here, count in enumerate(counts)), start + 1)
                pynvml.nvmlGpuInstanceDestroy(made)

    explore((0,) * len(plain), 0)
    every = itertools.product(*(range(row.most + 1) for row in plain))
    within = {
        counts
        for counts in every
        if sum(count * row.units for count, row in zip(counts, plain, strict=True)) <= 8
        and sum(count * row.slices for count, row in zip(counts, plain, strict=True)) <= 7
    }
    assert reached == within
    assert len(reached) == 78


def test_video_engines_that_are_lent_apart(new_node: NewNode) -> None:
    """One +me on a card; all of them go with none but those that have none."""
    _, (gpu,) = node(new_node, "rtx_pro_6000")
    everything = make(gpu, 65, 0, 3)
    for profile in (14, 21, 47):
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            make(gpu, profile, 3, 3)
    without = make(gpu, 67, 3, 3)
    pynvml.nvmlGpuInstanceDestroy(everything)
    pynvml.nvmlGpuInstanceDestroy(without)
    make(gpu, 21, 0, 3)
    with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
        make(gpu, 21, 3, 3)
    make(gpu, 14, 3, 3)
