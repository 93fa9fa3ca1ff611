"""What the store remembers of slices, in the shape a cycle needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.slice_state import GpuHold, GpuRecord, HoldState, SliceRecord, SliceState
from slurmext.model.state import JobKey
from slurmext.ports import Store
from slurmext.service.slices.counted import gpus_in

PLACEHOLDER = "slurmext-slices-"
"""Names of placeholder jobs: this and the number of the hold."""
_MISS_PENALTY_S = 5.0
_LONGEST_PENALTY_S = 300.0
_MISS_MEMORY_S = 3600.0
_FREED_MEMORY_S = 60.0
_OOM_MEMORY_S = 7 * 86400.0
OUT_OF_MEMORY = "it ran out of GPU memory"
"""What is written at the slices of a run that ended so."""


@dataclass(frozen=True)
class SliceMemory:
    """`records` are the slices that are not over, `misses` those that could not be made of late, `missed` when a job's
    last miss is forgiven and why it missed, `outgrown` on what a job (by id) ran out of GPU memory and was requeued,
    `freed` when instances (GPU, profile, start) that jobs left of late were free, `connected` nodes whose agents are
    there.
    """

    gpus: Sequence[GpuRecord] = ()
    records: Sequence[SliceRecord] = ()
    holds: Sequence[GpuHold] = ()
    misses: Sequence[SliceRecord] = ()
    missed: Mapping[JobKey, tuple[float, str]] = field(default_factory=dict[JobKey, "tuple[float, str]"])
    outgrown: Mapping[str, SliceRecord] = field(default_factory=dict[str, SliceRecord])
    freed: Mapping[tuple[str, str, int], float] = field(default_factory=dict[tuple[str, str, int], float])
    connected: frozenset[str] = frozenset()

    @cached_property
    def by_job(self) -> Mapping[JobKey, Sequence[SliceRecord]]:
        """The slices of each job."""
        found = dict[JobKey, list[SliceRecord]]()
        for record in self.records:
            found.setdefault(record.job, []).append(record)
        return found

    @cached_property
    def newest(self) -> Mapping[JobKey, str]:
        """The newest reservation of each job."""
        both = sorted((*self.records, *self.misses), key=lambda record: record.id)
        return {record.job: record.reservation for record in both}

    @cached_property
    def placeholders(self) -> Mapping[str, GpuHold]:
        """Holds by the id of their placeholder job."""
        return {hold.job_id: hold for hold in self.holds if hold.job_id}


def remembered(store: Store, connected: frozenset[str], now_s: float) -> SliceMemory:
    """What the store knows now."""
    misses = store.slices(active=False, states=[SliceState.MISSED], since_s=now_s - _MISS_MEMORY_S)
    records = store.slices()
    outgrown = {
        record.job.job_id: record
        for record in store.slices(active=False, why=OUT_OF_MEMORY, since_s=now_s - _OOM_MEMORY_S)
    }
    over = store.slices(active=False, states=[SliceState.FREED], since_s=now_s - _FREED_MEMORY_S)
    return SliceMemory(
        gpus=store.gpus(),
        records=records,
        freed={(each.gpu, each.profile, each.start or 0): each.changed_s for each in over if each.profile is not None},
        holds=store.holds(),
        misses=misses,
        missed=_penalties(misses, now_s),
        outgrown=outgrown,
        connected=connected,
    )


def _penalties(misses: Sequence[SliceRecord], now_s: float) -> dict[JobKey, tuple[float, str]]:
    """Who missed is tried again later each time, so that a broken card does not keep it and others busy."""
    times = dict[JobKey, dict[str, SliceRecord]]()
    for record in misses:
        times.setdefault(record.job, {})[record.reservation] = record
    found = dict[JobKey, tuple[float, str]]()
    for job, by_reservation in times.items():
        last = max(by_reservation.values(), key=lambda record: record.changed_s)
        wait_s = min(_MISS_PENALTY_S * 2 ** (len(by_reservation) - 1), _LONGEST_PENALTY_S)
        if last.changed_s + wait_s > now_s:
            found[job] = last.changed_s + wait_s, last.why
    return found


def placeholder_jobs(memory: SliceMemory, running: Mapping[str, bool]) -> list[Job]:
    """GPUs that are out of whole use, as running jobs that nobody may evict. `running` tells of placeholder jobs that
    Slurm shows, by id, whether they have their GPU; a hold whose job it does not show is counted until it ends.
    """
    return [
        Job(
            id=f"{PLACEHOLDER}{hold.id}",
            queue="",
            state=JobState.RUNNING,
            preemptible=False,
            requeue=False,
            submitted_s=hold.created_s,
            started_s=hold.created_s,
            placement=(NodeGpus(node=hold.node, gpus=1),),
        )
        for hold in memory.holds
        if hold.state is not HoldState.LEAVING or running.get(hold.job_id, False)
    ]


def sliced_gpus(memory: SliceMemory) -> dict[str, dict[str, float]]:
    """What each user has of GPUs in slices, by queue."""
    found = dict[str, dict[str, list[SliceRecord]]]()
    for record in memory.records:
        found.setdefault(record.queue, {}).setdefault(record.user, []).append(record)
    return {queue: {user: gpus_in(mine) for user, mine in users.items()} for queue, users in found.items()}


def usage_jobs(memory: SliceMemory) -> list[Job]:
    """What slices count against quotas, as running jobs without a place: whole GPUs, rounded up for each queue.

    A queue's users get the whole part of theirs; what is left of the queue goes to those with the largest fractions.
    """
    jobs = list[Job]()
    by_queue = dict[str, list[SliceRecord]]()
    for record in memory.records:
        by_queue.setdefault(record.queue, []).append(record)
    for queue, users in sorted(sliced_gpus(memory).items()):
        left = ceil(gpus_in(by_queue[queue])) - sum(int(part) for part in users.values())
        by_fraction = sorted(users, key=lambda user: (-(users[user] % 1), user))
        more = set(by_fraction[: max(0, left)])
        for user in sorted(users):
            gpus = int(users[user]) + (user in more)
            if gpus:
                jobs.append(
                    Job(
                        id=f"slices of {user} in {queue}",
                        queue=queue,
                        state=JobState.RUNNING,
                        user=user,
                        gpus_per_task=gpus,
                        preemptible=False,
                        requeue=False,
                    )
                )
    return jobs
