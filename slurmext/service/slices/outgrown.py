"""Jobs that failed because their slice had too little GPU memory: requeued once, with the next larger size."""

from __future__ import annotations

import logging

from slurmext.errors import SlurmRefused
from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.policy import Policy
from slurmext.model.slice_state import SliceRecord, SliceSample, SliceState
from slurmext.model.state import Event
from slurmext.ports import Actuator, Clock, Store
from slurmext.service.slices.memory import OUT_OF_MEMORY, SliceMemory

log = logging.getLogger(__name__)

FULL = 0.97
"""A job that failed having used this much of its GPU memory ran out of it: drivers keep a little for themselves."""
LOOK_BACK_S = 200.0
"""Slurm forgets ended jobs after MinJobAge (300 s): later nothing can be requeued."""

_FAILED = frozenset({"FAILED", "OUT_OF_MEMORY"})


class Outgrown:
    """What it remembers only saves repeated requests: that a job was tried again is written at its slices."""

    def __init__(self, store: Store, actuator: Actuator, clock: Clock) -> None:
        self._store, self._actuator, self._clock = store, actuator, clock
        self._asked = set[tuple[str, int | None]]()

    def follow(self, view: ClusterView, memory: SliceMemory, policy: Policy) -> None:
        """Requeue who failed so, wanted to be tried again, and was not yet."""
        now_s = self._clock.now()
        failed = {
            record.slurm_id: record
            for record in view.ended
            if record.slurm_state in _FAILED
            and record.batch
            and now_s - (record.end_s or 0) < LOOK_BACK_S
            and (record.slurm_id, record.end_s) not in self._asked
            and _wants(record, policy)
        }
        if not failed:
            return
        for sample in self._store.slice_samples(job_ids=failed.keys()):
            record = failed[sample.job.job_id]
            if ran_out(sample):
                self._again(record, memory, now_s)

    def _again(self, record: JobRecord, memory: SliceMemory, now_s: float) -> None:
        past = self._store.slices(active=False, job_ids=[record.slurm_id])
        last = [each for each in past if each.reservation == past[-1].reservation] if past else []
        self._asked.add((record.slurm_id, record.end_s))
        marked = memory.outgrown.get(record.slurm_id)
        if not last or (marked is not None and marked.reservation != last[0].reservation):
            return  # it had its second chance
        self._mark(last, now_s)
        try:
            refused = self._actuator.requeue([record.slurm_id])
        except SlurmRefused as problem:
            refused = {record.slurm_id: str(problem)}
        if why := refused.get(record.slurm_id):
            log.warning("job %s ran out of GPU memory and cannot be tried again: %s", record.slurm_id, why)
            return
        message = "it ran out of GPU memory and is tried again on the next larger size"
        event = Event(at_s=now_s, source="daemon", kind="slice.outgrown", job_id=record.slurm_id, message=message)
        self._store.record_event(event, dedup=f"outgrown/{last[0].reservation}")

    def _mark(self, records: list[SliceRecord], now_s: float) -> None:
        ids = [record.id for record in records]
        self._store.advance_slices(
            ids, SliceState.FREED, now_s, within=[SliceState.LIVE, SliceState.FREED], why=OUT_OF_MEMORY
        )


def ran_out(sample: SliceSample) -> bool:
    """Whether a job that failed did so because its GPU memory was used up."""
    peak, limit = sample.memory_peak_mib, sample.memory_mib
    return sample.oom or (peak is not None and limit is not None and limit > 0 and peak >= FULL * limit)


def _wants(record: JobRecord, policy: Policy) -> bool:
    note = record.annotation
    return note is not None and note.sliced and record.requeue and (note.oom_retry or policy.slice_oom_retry)
