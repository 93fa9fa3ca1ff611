"""What agents say of the GPUs of their jobs, put into the store."""

from __future__ import annotations

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.model.state import Event, GpuActivity, GpuState
from slurmext.ports import Store

GPU_ACTIVITY = "gpu_activity"
_LONGEST_VALID_S = 86400.0
_WORDS = {
    GpuState.IDLE: "all its GPUs are idle",
    GpuState.WORKING: "its GPUs work",
    GpuState.UNKNOWN: "what its GPUs do is unknown",
}


def store_activity(store: Store, event: AgentEvent, job_id: str, now_s: float) -> bool:
    """Keep what the agent said; True when it is a change that the next cycle should see.

    A repeated event changes nothing: of two words on a job and node the newer one stays. Only changes are part of the
    job's timeline.
    """
    activity = activity_of(event, job_id, now_s)
    store.record_gpu_activity(activity)
    if event.detail.get("changed") is not True:
        return False
    happened = Event(
        at_s=event.at_s,
        source=f"agent:{event.node}",
        kind=f"gpus.{activity.state.value}",
        job_id=job_id,
        message=_WORDS[activity.state],
        detail={} if activity.idle_since_s is None else {"idle_since_s": activity.idle_since_s},
    )
    return store.record_event(happened, dedup=f"{event.node}/{event.boot}/{event.seq}")


def activity_of(event: AgentEvent, job_id: str, now_s: float) -> GpuActivity:
    """The event as a record. What is missing or makes no sense is unknown; a clock that is ahead buys no time."""
    said_s = min(event.at_s, now_s)
    state = str(event.detail.get("state"))
    since_s = _number(event, "idle_since_s")
    idle = state == GpuState.IDLE.value and since_s is not None
    working = state == GpuState.WORKING.value
    peak, gpus = _number(event, "peak_memory_mib"), _number(event, "gpus")
    started_s = _number(event, "started_s")
    return GpuActivity(
        job_id=job_id,
        node=event.node,
        state=GpuState.IDLE if idle else GpuState.WORKING if working else GpuState.UNKNOWN,
        at_s=said_s,
        valid_until_s=said_s + min(_number(event, "valid_s") or 0.0, _LONGEST_VALID_S),
        started_s=said_s if started_s is None else started_s,
        gpus=0 if gpus is None else int(gpus),
        idle_since_s=since_s if idle else None,
        mean_percent=_number(event, "mean_percent"),
        peak_memory_mib=None if peak is None else int(peak),
    )


def _number(event: AgentEvent, key: str) -> float | None:
    value = event.detail.get(key)
    sensible = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12  # noqa: PLR2004
    return float(value) if sensible else None
