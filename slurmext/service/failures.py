"""How often runs end without anybody having announced it: what jobs base the interval of their checkpoints on."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from slurmext.model.cluster import JobRecord
from slurmext.model.job import HOLDING
from slurmext.model.state import ActionKind, ActionState, JobKey
from slurmext.model.upkeep import FailureRate, FailureRecord
from slurmext.ports import Store
from slurmext.service.observe import Observation

log = logging.getLogger(__name__)

HALF_LIFE_S = 90 * 86400.0
"""A site's hardware ages and is replaced: what was seen a quarter ago counts half."""
_SAVE_EVERY_S = 60.0
_GAP_S = 900.0
"""While no daemon looked for longer than this, nobody knows what ran."""
_ANNOUNCED_S = 180.0
"""A run that saved on a signal so shortly before it ended was told to go, by us or by its user."""
_STATES = frozenset({"node_fail", "boot_fail"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    restarts: int
    start_s: float
    nodes: str
    node_count: int


class FailureWatch:
    """Watches the managed jobs of one cluster from cycle to cycle. `rate` is what is known."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[JobKey, _Run] = {}
        self._seen_s = 0.0
        self._saved_s = 0.0
        self._rate: FailureRate | None = None

    def told(self) -> str:
        """For the environment of jobs: `count/seconds of nodes`."""
        rate = self._rate
        return "" if rate is None else f"{rate.count:.4g}/{rate.node_s:.6g}"

    def see(self, token: int, observation: Observation, now_s: float) -> None:
        """Take a cycle's look into account. Raises StoreUnavailable and StoreConflict."""
        rate = self._store.failure_rate() if self._rate is None else self._rate
        elapsed_s = now_s - self._seen_s if 0 < now_s - self._seen_s < _GAP_S else 0.0
        failed = self._failed(observation, now_s)
        for record in failed:
            log.info("job %s: a run on %s ended unannounced (%s)", record.job.job_id, record.nodes, record.kind)
            self._store.record_failure(token, record)
        faded = 0.5 ** (elapsed_s / HALF_LIFE_S)
        running = {known.key: _run(known.record) for known in observation.known.values() if _holds(known.record)}
        node_s = elapsed_s * sum(run.node_count for key, run in running.items() if key in self._runs)
        self._rate = FailureRate(
            count=rate.count * faded + len(failed), node_s=rate.node_s * faded + node_s, at_s=now_s
        )
        self._runs = self._runs | running
        restarts = {known.key: known.record.restarts for known in observation.known.values()}
        # A run that is over is over, whether its job waits or is gone.
        self._runs = {key: run for key, run in self._runs.items() if restarts.get(key) == run.restarts}
        self._seen_s = now_s
        if failed or now_s - self._saved_s >= _SAVE_EVERY_S:
            self._saved_s = now_s
            self._store.save_failure_rate(token, self._rate)

    def _failed(self, observation: Observation, now_s: float) -> list[FailureRecord]:
        found = list[FailureRecord]()
        for row in observation.ended:
            run = self._runs.get(row.job)
            if run is not None and row.state in _STATES:
                found.append(_record(row.job, run, row.state.upper(), now_s))
        for known in observation.known.values():
            run = self._runs.get(known.key)
            if run is not None and known.record.restarts > run.restarts and not self._announced(known.key, run, now_s):
                found.append(_record(known.key, run, "requeued", now_s))
        return found

    def _announced(self, key: JobKey, run: _Run, now_s: float) -> bool:
        """Whether we, or the job's own user, ended the run."""
        for action in self._store.actions(job_id=key.job_id, since_s=run.start_s, limit=20):
            if action.job == key and action.kind is ActionKind.EVICT and action.state in _TOLD:
                return True
        lately = self._store.events(job_id=key.job_id, since_s=max(run.start_s, now_s - _ANNOUNCED_S))
        return any(event.kind == "checkpoint" and event.detail.get("on_signal") is True for event in lately)


_TOLD = frozenset({ActionState.SIGNALLED, ActionState.REQUEUED, ActionState.DONE})


def _holds(record: JobRecord) -> bool:
    return record.state in HOLDING and bool(record.start_s) and bool(record.placement)


def _run(record: JobRecord) -> _Run:
    names = [part.node for part in record.placement]
    return _Run(
        restarts=record.restarts,
        start_s=float(record.start_s or 0),
        nodes=",".join(names),
        node_count=len(names),
    )


def _record(job: JobKey, run: _Run, kind: str, now_s: float) -> FailureRecord:
    ran_s = now_s - run.start_s
    return FailureRecord(
        job=job, at_s=now_s, kind=kind, nodes=run.nodes, node_count=run.node_count,
        ran_s=ran_s if math.isfinite(ran_s) and ran_s > 0 else 0.0,
    )  # fmt: skip
