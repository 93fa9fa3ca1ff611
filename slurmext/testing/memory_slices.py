"""The slices of MemoryStore."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slurmext.model.slice_state import OPEN_SLICES, GpuHold, GpuRecord, HoldState, SliceRecord, SliceSample, SliceState

if TYPE_CHECKING:
    import threading
    from collections import Counter
    from collections.abc import Collection, Sequence

    from slurmext.model.state import JobKey


class MemorySlices:
    """What SliceStore does, in dictionaries."""

    _lock: threading.RLock
    _last_id: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self._gpus: dict[str, tuple[float, list[GpuRecord]]] = {}
        self._slices: dict[int, SliceRecord] = {}
        self._holds: dict[int, GpuHold] = {}
        self._samples: dict[tuple[JobKey, str], SliceSample] = {}

    def _require_up(self) -> None: ...

    def _require_controller(self, token: int) -> None: ...

    def record_gpus(self, node: str, gpus: Sequence[GpuRecord], at_s: float) -> None:
        with self._lock:
            self._require_up()
            if node not in self._gpus or self._gpus[node][0] <= at_s:
                kept = [
                    replace(gpu, node=node, at_s=at_s, detail=json.loads(json.dumps(dict(gpu.detail)))) for gpu in gpus
                ]
                self._gpus[node] = at_s, sorted(kept, key=lambda gpu: gpu.minor)

    def gpus(self) -> list[GpuRecord]:
        with self._lock:
            self._require_up()
            return [gpu for node in sorted(self._gpus) for gpu in self._gpus[node][1]]

    def add_slices(self, token: int, records: Sequence[SliceRecord]) -> list[SliceRecord]:
        with self._lock:
            self._require_controller(token)
            stored = [replace(record, id=self._number("slice")) for record in records]
            self._slices.update((record.id, record) for record in stored)
            return stored

    def advance_slices(
        self,
        ids: Collection[int],
        state: SliceState,
        now_s: float,
        *,
        within: Collection[SliceState] = OPEN_SLICES,
        uuid: str | None = None,
        why: str | None = None,
        made_ms: float | None = None,
        token: int | None = None,
    ) -> int:
        with self._lock:
            self._require_up()
            if token is not None:
                self._require_controller(token)
            given = {"uuid": uuid, "why": why, "made_ms": made_ms}
            values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
            values |= {"live_s": now_s} if state is SliceState.LIVE else {}
            values |= {"ended_s": now_s} if state.final else {}
            which = [number for number in ids if number in self._slices and self._slices[number].state in within]
            for number in which:
                self._slices[number] = replace(self._slices[number], state=state, changed_s=now_s, **values)
            return len(which)

    def slices(
        self,
        *,
        active: bool = True,
        job_ids: Collection[str] | None = None,
        states: Collection[SliceState] | None = None,
        user: str | None = None,
        why: str | None = None,
        since_s: float | None = None,
        limit: int | None = None,
    ) -> list[SliceRecord]:
        with self._lock:
            self._require_up()
            found = [
                record
                for record in self._slices.values()
                if (not active or record.state in OPEN_SLICES)
                and (job_ids is None or record.job.job_id in job_ids)
                and (states is None or record.state in states)
                and user in {None, record.user}
                and why in {None, record.why}
                and (since_s is None or record.ended_s is None or record.ended_s >= since_s)
            ]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def add_hold(self, token: int, hold: GpuHold) -> GpuHold:
        with self._lock:
            self._require_controller(token)
            stored = replace(hold, id=self._number("hold"))
            self._holds[stored.id] = stored
            return stored

    def change_hold(self, token: int, hold: GpuHold) -> None:
        with self._lock:
            self._require_controller(token)
            if hold.id in self._holds:
                self._holds[hold.id] = hold

    def holds(self, *, active: bool = True) -> list[GpuHold]:
        with self._lock:
            self._require_up()
            return [hold for hold in self._holds.values() if not active or hold.state is not HoldState.ENDED]

    def record_slice_sample(self, record: SliceSample) -> None:
        with self._lock:
            self._require_up()
            key = (record.job, record.node)
            if key not in self._samples or self._samples[key].at_s <= record.at_s:
                self._samples[key] = record

    def slice_samples(self, *, job_ids: Collection[str] | None = None) -> list[SliceSample]:
        with self._lock:
            self._require_up()
            found = [r for r in self._samples.values() if job_ids is None or r.job.job_id in job_ids]
        return sorted(found, key=lambda record: (record.job.job_id, record.node))

    def _prune_slices(self, before_s: float) -> int:
        old = [n for n, record in self._slices.items() if record.ended_s is not None and record.ended_s < before_s]
        ended = [n for n, hold in self._holds.items() if hold.state is HoldState.ENDED and hold.changed_s < before_s]
        past = [key for key, record in self._samples.items() if record.at_s < before_s]
        for number in old:
            del self._slices[number]
        for number in ended:
            del self._holds[number]
        for key in past:
            del self._samples[key]
        return len(old) + len(ended) + len(past)

    def _number(self, what: str) -> int:
        self._last_id[what] += 1
        return self._last_id[what]
