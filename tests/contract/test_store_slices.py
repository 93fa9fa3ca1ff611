"""What every store promises about GPU slices, the in-memory fake included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slurmext.errors import StoreConflict
from slurmext.model.slice_state import GpuHold, GpuRecord, HoldState, SliceRecord, SliceSample, SliceState
from slurmext.model.slicing import GpuUse
from slurmext.model.state import JobKey

KEY = JobKey(job_id="12_3", submit_s=500)
SLICE = SliceRecord(
    reservation="a1", job=KEY, user="alice", queue="org/team", node="n1", gpu="GPU-1", gpu_type="h100",
    profile="1g.10gb", profile_id=19, start=4, memory_mib=9984, milli=143, why="plain", created_s=1000.5,
    changed_s=1000.5,
)  # fmt: skip
SHARE = SliceRecord(
    reservation="b2", job=JobKey(job_id="13", submit_s=501), user="bob", node="n1", gpu="GPU-2", share_pct=25,
    memory_mib=10240, milli=250, created_s=1001, changed_s=1001,
)  # fmt: skip
GPU = GpuRecord(
    node="n1", uuid="GPU-1", minor=3, name="NVIDIA H100", memory_mib=81559, sm=132, mig_capable=True, use=GpuUse.MIG,
    detail={"geometry": [{"name": "1g.10gb", "starts": [0, 1]}], "instances": []}, at_s=1000.25,
)  # fmt: skip


def test_a_slice_comes_back_as_it_was_written(store: Any, token: int) -> None:
    """Every field of MIG instances and MPS shares, with an id of its own, oldest first."""
    stored = store.add_slices(token, [SLICE, SHARE])
    assert len({record.id for record in stored}) == 2
    assert [replace(record, id=0) for record in stored] == [SLICE, SHARE]
    assert store.slices() == stored
    assert store.slices(job_ids=["13"]) == stored[1:]
    assert store.slices(user="alice") == stored[:1]
    assert store.slices(limit=1) == stored[1:]


def test_a_slice_goes_on_only_from_where_it_is(store: Any, token: int) -> None:
    """What an agent says late never brings back a slice that is over, and changes nobody else's."""
    one, other = store.add_slices(token, [SLICE, SHARE])
    assert store.advance_slices([one.id], SliceState.READY, 1002, within=[SliceState.RESERVED]) == 1
    assert store.advance_slices([one.id], SliceState.LIVE, 1003.5, uuid="MIG-7", made_ms=12.5) == 1
    live = replace(one, state=SliceState.LIVE, changed_s=1003.5, live_s=1003.5, uuid="MIG-7", made_ms=12.5)
    assert store.slices() == [live, other]
    assert store.advance_slices([one.id], SliceState.READY, 1004, within=[SliceState.RESERVED]) == 0
    assert store.advance_slices([one.id], SliceState.FREED, 1010, token=token) == 1
    assert store.advance_slices([one.id], SliceState.LIVE, 1011) == 0
    assert store.slices() == [other]
    ended = replace(live, state=SliceState.FREED, changed_s=1010, ended_s=1010)
    assert store.slices(active=False) == [ended, other]
    assert store.slices(active=False, states=[SliceState.FREED]) == [ended]
    assert store.slices(active=False, since_s=1010.5) == [other]


def test_reservations_are_the_controllers(store: Any, token: int) -> None:
    """A daemon that lost its lease reserves nothing and takes nothing back."""
    (one,) = store.add_slices(token, [SLICE])
    for act in (
        lambda: store.add_slices(token + 1, [SLICE]),
        lambda: store.advance_slices([one.id], SliceState.WITHDRAWN, 1, token=token + 1),
        lambda: store.add_hold(token + 1, GpuHold(node="n1")),
        lambda: store.change_hold(token + 1, GpuHold(id=1, node="n1")),
    ):
        with pytest.raises(StoreConflict):
            act()
    assert store.slices() == [one]


def test_a_placeholder_is_followed_to_its_end(store: Any, token: int) -> None:
    """Its job and its GPU become known, and it is gone from the active ones when it ended."""
    hold = store.add_hold(token, GpuHold(node="n1", gpu_type="h100", use=GpuUse.SHARED, for_job="13", created_s=1))
    assert store.holds() == [hold]
    held = replace(hold, state=HoldState.HELD, job_id="44", gpu="GPU-2", changed_s=2.5)
    store.change_hold(token, held)
    assert store.holds() == [held]
    store.change_hold(token, replace(held, state=HoldState.ENDED, changed_s=3))
    assert store.holds() == []
    assert [one.state for one in store.holds(active=False)] == [HoldState.ENDED]


def test_gpus_of_a_node_are_what_its_agent_said_last(store: Any) -> None:
    """All of the node's, with their geometry; an old word that comes late changes nothing."""
    other = replace(GPU, uuid="GPU-0", minor=0, use=GpuUse.WHOLE, mig_capable=False)
    store.record_gpus("n1", [GPU, other], 1000.25)
    store.record_gpus("n2", [replace(GPU, node="n2")], 1000.25)
    assert store.gpus() == [other, GPU, replace(GPU, node="n2")]
    store.record_gpus("n1", [], 900)
    assert len(store.gpus()) == 3
    store.record_gpus("n1", [GPU], 1001)
    assert store.gpus() == [replace(GPU, at_s=1001), replace(GPU, node="n2")]


def test_the_newest_measurement_of_a_job_on_a_node_stays(store: Any) -> None:
    """One row for a job and node; None means that it was not measured."""
    first = SliceSample(
        job=KEY, node="n1", at_s=1000.5, memory_mib=9984, memory_peak_mib=5000, sm_mean_pct=40.5, sm_peak_pct=90,
        samples=3,
    )  # fmt: skip
    store.record_slice_sample(first)
    second = SliceSample(job=KEY, node="n2", at_s=1000, oom=True)
    store.record_slice_sample(second)
    store.record_slice_sample(replace(first, at_s=999, samples=1))
    assert store.slice_samples() == [first, second]
    newer = replace(first, at_s=1001, memory_peak_mib=6000, samples=4)
    store.record_slice_sample(newer)
    assert store.slice_samples(job_ids=["12_3"]) == [newer, second]
    assert store.slice_samples(job_ids=[]) == []


def test_what_is_over_is_pruned(store: Any, token: int) -> None:
    """Slices, placeholders and measurements of long ago go; what stands stays."""
    one, other = store.add_slices(token, [SLICE, SHARE])
    store.advance_slices([one.id], SliceState.FREED, 600)
    hold = store.add_hold(token, GpuHold(node="n1"))
    store.change_hold(token, replace(hold, state=HoldState.ENDED, changed_s=600))
    store.record_slice_sample(SliceSample(job=KEY, node="n1", at_s=600))
    assert store.prune(token, 1000) == 3
    assert store.slices(active=False) == [other]
    assert (store.holds(active=False), store.slice_samples()) == ([], [])
