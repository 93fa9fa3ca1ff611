"""What agents say of slices, put into the store. Called from the agents' threads; the next cycle acts on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.model.slice_state import GpuRecord, SliceRecord, SliceSample, SliceState
from slurmext.model.slicing import GpuUse
from slurmext.model.state import Event
from slurmext.ports import Store

GPUS = "gpus"
SAMPLE = "slice_sample"
OVER = "slice_over"
_MOST_GPUS = 64
_MOST_RESERVED = 4096
_LONGEST = 1000

_WORDS = {
    "slice_reserved": "its slices on {node} are reserved",
    "slice_made": "it has its slices on {node}",
    "slice_missed": "its slices on {node} could not be made: {why}",
    "slice_freed": "its slices on {node} are free again",
    "slice_lost": "a slice of it on {node} is gone: somebody destroyed it, or the GPU failed",
    OVER: "it used more GPU memory than its share has ({used} of {limit} MiB): {action}",
}


def take_in(store: Store, event: AgentEvent, job_id: str | None, now_s: float) -> bool | None:
    """Keep what the agent said: True when the next cycle should see it, False when nothing changed; None for an event
    that is not about slices. Saying it again changes nothing. `job_id` is the job as Slurm's commands know it.
    """
    if event.event == GPUS:
        store.record_gpus(event.node, _gpus(event), min(event.at_s, now_s))
        return True
    if event.event == SAMPLE:
        return _sample(store, event, job_id, oom=False)
    if event.event == OVER:
        _sample(store, event, job_id, oom=event.detail.get("action") != "told")
        return _in_timeline(store, event, job_id)
    move = _MOVES.get(event.event)
    if move is None:
        return None
    changed = move(store, event, now_s)
    _in_timeline(store, event, job_id)
    return changed


def forgotten(store: Store, event: AgentEvent) -> list[str]:
    """Reservations that the agent keeps for jobs that will not use them: it was away when it was told."""
    if event.event != GPUS or not isinstance(names := event.detail.get("reserved"), list):
        return []
    kept = {name for name in names[:_MOST_RESERVED] if isinstance(name, str)}
    return sorted(kept - {record.reservation for record in store.slices() if record.node == event.node}) if kept else []


def _reserved(store: Store, event: AgentEvent, now_s: float) -> bool:
    ids = [record.id for record in _about(store, event) if record.state is SliceState.RESERVED]
    return bool(store.advance_slices(ids, SliceState.READY, now_s, within=[SliceState.RESERVED]))


def _made(store: Store, event: AgentEvent, now_s: float) -> bool:
    ms = event.detail.get("ms")
    took = float(ms) if isinstance(ms, int | float) and ms >= 0 else None
    uuids = {
        (item.get("gpu"), item.get("start")): str(item.get("uuid") or "")[:64]
        for item in _rows(event.detail.get("items"))
    }
    before = [SliceState.RESERVED, SliceState.READY]
    changed = 0
    for record in _about(store, event):
        uuid = uuids.get((record.gpu, record.start), "") if record.profile is not None else ""
        changed += store.advance_slices([record.id], SliceState.LIVE, now_s, within=before, uuid=uuid, made_ms=took)
    return changed > 0


def _missed(store: Store, event: AgentEvent, now_s: float) -> bool:
    why = _why(event)
    records = _about(store, event)
    if not records:
        return True  # no reservation was known: its job waits to be requeued
    return bool(store.advance_slices([record.id for record in records], SliceState.MISSED, now_s, why=why))


def _freed(store: Store, event: AgentEvent, now_s: float) -> bool:
    records = _about(store, event)
    live = [record.id for record in records if record.state is SliceState.LIVE]
    early = [record.id for record in records if record.state is not SliceState.LIVE]
    changed = store.advance_slices(live, SliceState.FREED, now_s) if live else 0
    if early:
        changed += store.advance_slices(early, SliceState.WITHDRAWN, now_s)
    return changed > 0


def _use(_store: Store, _event: AgentEvent, _now_s: float) -> bool:
    return True


_MOVES: Mapping[str, Callable[[Store, AgentEvent, float], bool]] = {
    "slice_reserved": _reserved,
    "slice_made": _made,
    "slice_missed": _missed,
    "slice_freed": _freed,
    "gpu_use": _use,
    "slice_lost": _use,
}


def _about(store: Store, event: AgentEvent) -> list[SliceRecord]:
    """The open slices on the agent's node that it speaks of: an agent says nothing of other nodes'."""
    name = event.detail.get("reservation")
    return [record for record in store.slices() if record.node == event.node and record.reservation == name]


def _in_timeline(store: Store, event: AgentEvent, job_id: str | None) -> bool:
    detail = {key: value for key, value in event.detail.items() if key in {"reservation", "ms", "gpu", "use", "ok"}}
    words = _WORDS.get(event.event, "").format(
        node=event.node, why=_why(event), used=event.detail.get("used_mib"), limit=event.detail.get("memory_mib"),
        action=event.detail.get("action"),
    )  # fmt: skip
    if event.event == "gpu_use" and event.detail.get("ok") is not True:
        words = f"a GPU of {event.node} could not be made ready for {event.detail.get('use')} use: {_why(event)}"
    happened = Event(
        at_s=event.at_s,
        source=f"agent:{event.node}",
        kind=event.event.replace("slice_", "slice."),
        job_id=job_id,
        message=words,
        detail=detail,
    )
    return store.record_event(happened, dedup=f"{event.node}/{event.boot}/{event.seq}")


def _sample(store: Store, event: AgentEvent, job_id: str | None, *, oom: bool) -> bool:
    """Merge what was measured in one run with that of earlier ones: peaks stay, the mean is the newest run's."""
    name = event.detail.get("reservation")
    wanted = {job_id} if job_id is not None else None
    past = [record for record in store.slices(active=False, job_ids=wanted) if record.reservation == name]
    if not past:
        return False
    key = past[0].job
    known = next((each for each in store.slice_samples(job_ids=[key.job_id])
                  if each.job == key and each.node == event.node), None)  # fmt: skip
    values = event.detail
    peak = _whole(values.get("memory_peak_mib") or values.get("used_mib"))
    store.record_slice_sample(
        SliceSample(
            job=key,
            node=event.node,
            at_s=max(event.at_s, known.at_s if known else 0),
            memory_mib=_whole(values.get("memory_mib")) or (known.memory_mib if known else None),
            memory_peak_mib=max(filter(None, (peak, known.memory_peak_mib if known else None)), default=None),
            sm_mean_pct=_number(values.get("sm_mean_pct", values.get("sm_pct")))
            if values.get("samples")
            else (known.sm_mean_pct if known else None),
            sm_peak_pct=_number(values.get("sm_peak_pct")) or (known.sm_peak_pct if known else None),
            samples=_whole(values.get("samples")) or (known.samples if known else 0),
            oom=oom or bool(known and known.oom),
        )
    )
    return bool(values.get("final")) or oom


def _gpus(event: AgentEvent) -> list[GpuRecord]:
    found = dict[str, GpuRecord]()
    for row in _rows(event.detail.get("gpus"))[:_MOST_GPUS]:
        uuid, use = row.get("uuid"), row.get("use")
        if not isinstance(uuid, str) or not uuid:
            continue
        found[uuid[:64]] = GpuRecord(
            node=event.node,
            uuid=uuid[:64],
            minor=_whole(row.get("minor")) or 0,
            name=str(row.get("name", ""))[:255],
            memory_mib=_whole(row.get("memory_mib")) or 0,
            sm=_whole(row.get("sm")) or 0,
            mig_capable=row.get("mig_capable") is True,
            use=GpuUse(use) if use in set(GpuUse) else GpuUse.UNKNOWN,
            detail={key: row.get(key) or [] for key in ("geometry", "instances", "shares")},
            at_s=event.at_s,
        )
    return list(found.values())


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _why(event: AgentEvent) -> str:
    return str(event.detail.get("reason") or event.detail.get("why") or "")[:_LONGEST]


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _number(value: object) -> float | None:
    sensible = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12  # noqa: PLR2004
    return float(value) if sensible else None
