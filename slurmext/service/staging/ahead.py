"""Where waiting jobs with models start, whoever starts them: for sure, or likely."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from slurmext.model.cluster import JobRecord
from slurmext.model.plan import Plan
from slurmext.model.slicing import SliceJob, SlicePlan, SliceSnapshot
from slurmext.model.snapshot import Snapshot
from slurmext.policy.staging.likely import Forecast
from slurmext.policy.staging.likely_slices import likely_for_slices
from slurmext.service.slices.hosts import hosts

_MOST_AHEAD = 32
"""Waiting jobs whose models are brought to nodes before they are planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A waiting job, and the nodes on which it starts: for sure when it is being released to them."""

    record: JobRecord
    nodes: tuple[str, ...]
    sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What a cycle saw and decided. `slices` are the jobs of slices, `sliced` what was decided of them last."""

    snapshot: Snapshot
    plan: Plan
    slices: Collection[SliceJob] = ()
    sliced: tuple[SliceSnapshot, SlicePlan] | None = None


class Ahead:
    """Remembers where models were being brought, so that the next cycle goes on with it."""

    def __init__(self, *, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        self._begun: dict[str, tuple[str, ...]] = {}

    def starts(
        self, records: Collection[JobRecord], decided: Decided, warm_of: Callable[[JobRecord], Collection[str]]
    ) -> list[Start]:
        """Those that start for sure, then those that wait the longest. `warm_of`: nodes that hold a job's models."""
        if not records:
            self._begun = {}
            return []
        going = _going(decided)
        sure = {record.slurm_id: _named(record) or going[record.slurm_id]
                for record in records if going.get(record.slurm_id)}  # fmt: skip
        found = [Start(record=record, nodes=sure[record.slurm_id], sure=True)
                 for record in records if record.slurm_id in sure]  # fmt: skip
        waiting = [record for record in records if record.slurm_id not in sure]
        begun = dict[str, tuple[str, ...]]()
        for record, nodes in self._likely(waiting, decided, warm_of):
            begun[record.slurm_id] = nodes
            found.append(Start(record=record, nodes=nodes, sure=False))
            if len(begun) == _MOST_AHEAD:
                break
        self._begun = begun
        return found

    def _likely(
        self, records: Collection[JobRecord], decided: Decided, warm_of: Callable[[JobRecord], Collection[str]]
    ) -> Iterator[tuple[JobRecord, tuple[str, ...]]]:
        if not records:
            return
        whole = {job.id: job for job in decided.snapshot.jobs}
        slices = {job.id: job for job in decided.slices}
        forecast = Forecast(decided.snapshot, ahead_s=self._ahead_s)
        planned = _planned(decided.snapshot, decided.plan)

        def waits_since(record: JobRecord) -> tuple[float, str]:
            job = whole.get(record.slurm_id) or slices.get(record.slurm_id)
            return float(record.submit_s if job is None else job.submitted_s), record.slurm_id

        for record in sorted(records, key=waits_since):
            job, sliced = whole.get(record.slurm_id), slices.get(record.slurm_id)
            warm = {*warm_of(record), *self._begun.get(record.slurm_id, ())}  # what was begun is gone on with
            if job is not None and job.gpus_per_task:
                if not job.blocked:
                    named = {*hosts(record.required_nodes), *planned.get(job.id, ())}
                    yield record, forecast.likely(job, planned=named, warm=warm)
            elif sliced is not None and decided.sliced is not None:
                if not sliced.blocked:
                    seen, plan = decided.sliced
                    yield record, likely_for_slices(sliced, seen, plan.hold, warm=warm, ahead_s=self._ahead_s)
            elif nodes := self._of_slurm(record, float(decided.snapshot.now_s)):
                yield record, nodes

    def _of_slurm(self, record: JobRecord, now_s: float) -> tuple[str, ...]:
        """Of a job that Slurm alone starts: the nodes its user named, or those that Slurm's backfill expects."""
        soon = (record.start_s or now_s) - now_s <= self._ahead_s and (record.eligible_s or now_s) <= now_s
        if record.held or record.dependency or not soon:
            return ()
        return record.expected_nodes or hosts(record.required_nodes)


def _going(decided: Decided) -> dict[str, tuple[str, ...]]:
    """Nodes of jobs that are or were released, and of those that have their slices."""
    placed = [(job.id, job.placement) for job in decided.snapshot.jobs]
    placed += [(release.job, release.placement) for release in decided.plan.release]
    found = {job: tuple(part.node for part in placement) for job, placement in placed}
    return found | {job.id: tuple(sorted({place.node for place in job.places})) for job in decided.slices}


def _named(record: JobRecord) -> tuple[str, ...]:
    """The nodes that the job's user named, when those are all that it gets."""
    named = hosts(record.required_nodes)
    return named if len(named) >= record.nodes else ()


def _planned(snapshot: Snapshot, decided: Plan) -> Mapping[str, set[str]]:
    """Nodes that are kept or vacated for a job."""
    found = dict[str, set[str]]()
    for fence in (*snapshot.fences, *decided.fence):
        found.setdefault(fence.beneficiary, set()).update(part.node for part in fence.placement)
    placed = {job.id: job.placement for job in snapshot.jobs}
    leaving = [(job.id, job.evicting_for) for job in snapshot.jobs if job.evicting_for]
    leaving += [(evict.job, evict.beneficiary) for evict in decided.evict if evict.beneficiary]
    for victim, beneficiary in leaving:
        found.setdefault(beneficiary, set()).update(part.node for part in placed.get(victim, ()))
    return found
