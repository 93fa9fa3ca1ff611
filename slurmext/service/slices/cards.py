"""Cards as the planner sees them, from what agents said and what is reserved. Pure.

Agents' words may be damaged or made up: what does not read as it should makes a card's use unknown, and nothing is
planned on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from slurmext.model.slice_state import GpuHold, GpuRecord, HoldState, SliceRecord, SliceState
from slurmext.model.slicing import (
    WHOLE_MILLI,
    Geometry,
    GpuUse,
    Instance,
    InstanceState,
    Profile,
    Share,
    SlicedGpu,
    SlicePlace,
)

_STATES = {
    "busy": InstanceState.BUSY,
    "reserved": InstanceState.RESERVED,
    "warm": InstanceState.WARM,
    "foreign": InstanceState.FOREIGN,
}


def geometry_of(record: GpuRecord) -> Geometry | None:
    """What the card can be cut into, as its driver reports it; None: it cannot, or nobody knows how."""
    profiles = tuple(profile for each in _rows(record, "geometry") if (profile := _profile(each)) is not None)
    if not record.mig_capable or not profiles:
        return None
    return Geometry(
        memory_units=max(max(profile.starts) + profile.memory_units for profile in profiles),
        compute_slices=max(profile.compute_slices for profile in profiles),
        profiles=profiles,
    )


def _profile(row: Mapping[str, object]) -> Profile | None:
    name, starts = row.get("name"), row.get("starts")
    size = _count(row, "size")
    if not isinstance(name, str) or not isinstance(starts, list) or not starts or not size:
        return None
    return Profile(
        name=name,
        profile_id=_count(row, "id"),
        memory_units=size,
        compute_slices=_count(row, "compute"),
        memory_mib=_count(row, "memory_mib"),
        sm=_count(row, "sm"),
        starts=tuple(sorted({start for start in cast("list[object]", starts) if isinstance(start, int)})),
        most=max(1, _count(row, "max")),
        automatic=not any(mark in name for mark in "+-"),
    )


def cards_of(
    gpus: Sequence[GpuRecord],
    records: Sequence[SliceRecord],
    holds: Sequence[GpuHold],
    *,
    gpu_types: Mapping[str, str],
    connected: Collection[str],
    empty_since: Mapping[str, float],
    freed: Mapping[tuple[str, str, int], float],
) -> tuple[SlicedGpu, ...]:
    """Every GPU of the nodes in `gpu_types` (Slurm's type of each). Who is away, or is in sliced use without a
    placeholder that has it in Slurm's books, is UNKNOWN. `freed`: since when instances are free; an older description
    of their GPU still shows them as busy.
    """
    holding = {hold.gpu: hold for hold in holds if hold.gpu}
    placed = dict[str, list[SliceRecord]]()
    for record in records:
        placed.setdefault(record.gpu, []).append(record)
    return tuple(
        _card(
            gpu,
            placed.get(gpu.uuid, ()),
            holding.get(gpu.uuid),
            gpu_types[gpu.node],
            here=gpu.node in connected,
            empty_s=empty_since.get(gpu.uuid),
            freed=freed,
        )
        for gpu in gpus
        if gpu.node in gpu_types
    )


def _card(
    gpu: GpuRecord,
    placed: Sequence[SliceRecord],
    hold: GpuHold | None,
    gpu_type: str,
    *,
    here: bool,
    empty_s: float | None,
    freed: Mapping[tuple[str, str, int], float],
) -> SlicedGpu:
    held = hold is not None and hold.state in {HoldState.HELD, HoldState.CLEARING, HoldState.LEAVING}
    use = gpu.use
    if not here or (use in {GpuUse.MIG, GpuUse.SHARED} and not held):
        use = GpuUse.UNKNOWN
    elif hold is not None and hold.state is HoldState.HELD:
        use = hold.use  # on its way there, if the agent says otherwise: it is listed as being taken
    elif hold is not None and use is GpuUse.WHOLE:
        use = GpuUse.UNKNOWN  # being given back
    return SlicedGpu(
        node=gpu.node,
        uuid=gpu.uuid,
        minor=gpu.minor,
        gpu_type=gpu_type,
        use=use,
        memory_mib=gpu.memory_mib,
        sm=gpu.sm,
        geometry=geometry_of(gpu),
        instances=_instances(gpu, placed, freed) if use is GpuUse.MIG else (),
        shares=tuple(
            Share(job=each.job.job_id, percent=each.share_pct, memory_mib=each.memory_mib or 0)
            for each in placed
            if each.share_pct is not None
        )
        if use is GpuUse.SHARED
        else (),
        leaving=hold is not None and hold.state in {HoldState.CLEARING, HoldState.LEAVING},
        since_s=0 if hold is None else hold.created_s,
        empty_s=empty_s,
    )


def _instances(
    gpu: GpuRecord, placed: Sequence[SliceRecord], freed: Mapping[tuple[str, str, int], float]
) -> tuple[Instance, ...]:
    """What stands on the card, and what is promised there but not made yet."""
    promised = {(each.profile, each.start): each for each in placed if each.profile is not None}
    found = list[Instance]()
    for row in _rows(gpu, "instances"):
        profile, start = row.get("profile"), row.get("start")
        if not isinstance(profile, str) or not isinstance(start, int):
            continue
        state = _STATES.get(str(row.get("state")), InstanceState.UNKNOWN)
        ours = promised.pop((profile, start), None)
        if ours is not None and state in {InstanceState.WARM, InstanceState.BUSY, InstanceState.RESERVED}:
            state = InstanceState.BUSY if ours.state is SliceState.LIVE else InstanceState.RESERVED
        job = ours.job.job_id if ours is not None else str(row.get("job_id") or "")
        if ours is None and state is InstanceState.BUSY and freed.get((gpu.uuid, profile, start), 0) > gpu.at_s:
            state, job = InstanceState.WARM, ""
        found.append(Instance(profile=profile, start=start, state=state, uuid=str(row.get("uuid") or ""), job=job))
    for (profile, start), record in promised.items():
        live = record.state is SliceState.LIVE
        found.append(
            Instance(
                profile=profile or "",
                start=start or 0,
                state=InstanceState.BUSY if live else InstanceState.RESERVED,
                uuid=record.uuid,
                job=record.job.job_id,
            )
        )
    return tuple(found)


def place_of(record: SliceRecord) -> SlicePlace:
    """Where a slice is."""
    return SlicePlace(
        node=record.node, gpu=record.gpu, profile=record.profile, start=record.start, share_pct=record.share_pct,
        memory_mib=record.memory_mib if record.profile is None else None,
    )  # fmt: skip


def milli_of(place: SlicePlace, card: SlicedGpu | None) -> int:
    """What a place counts against quotas: its larger share of compute and memory, in thousandths of a GPU."""
    if place.share_pct is not None:
        memory = 0
        if card is not None and card.memory_mib:
            memory = -(-(place.memory_mib or 0) * WHOLE_MILLI // card.memory_mib)
        return min(WHOLE_MILLI, max(place.share_pct * WHOLE_MILLI // 100, memory))
    geometry = None if card is None else card.geometry
    profile = None if geometry is None else geometry.profile(place.profile or "")
    if profile is None or geometry is None:
        return WHOLE_MILLI
    compute = -(-profile.compute_slices * WHOLE_MILLI // geometry.compute_slices)
    memory = -(-profile.memory_units * WHOLE_MILLI // geometry.memory_units)
    return min(WHOLE_MILLI, max(compute, memory))


def _rows(record: GpuRecord, key: str) -> list[Mapping[str, object]]:
    rows = record.detail.get(key)
    if not isinstance(rows, list):
        return []
    return [cast("Mapping[str, object]", row) for row in cast("list[object]", rows) if isinstance(row, dict)]


def _count(row: Mapping[str, object], key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) and value > 0 else 0
