"""Jobs of `--ckpt=…,chain`: checkpointed and requeued before their time limit ends, until their program ends. Pure.

A link is an eviction for nobody: signal, wait for the checkpoint, requeue. A run that has saved nothing is not
requeued, for the next one would only repeat it: Slurm ends it at its limit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from slurmext.model.state import ActionKind, ActionRecord, CheckpointRecord, Intent, JobKey
from slurmext.service.ckpt_wish import due_s
from slurmext.service.observe import Known, Observation

REASON = "TIME_LIMIT"
MOST_LINKS = 1000
"""Restarts after which a job is not requeued again for its limit: a program that never ends must not run for ever."""

Told = tuple[JobKey, int | None]
"""A run: the job and when it started."""


def links(
    observation: Observation,
    open_actions: Iterable[ActionRecord],
    told: Collection[Told],
    *,
    now: float,
    grace_s: float,
) -> list[Intent]:
    """Evictions of the jobs whose limit is near. `told` are runs that have been dealt with. Times in Unix seconds."""
    going = {action.job for action in open_actions if action.kind is ActionKind.EVICT}
    found = list[Intent]()
    for known in candidates(observation):
        record = known.record
        at_s = due_s(record, grace_s)
        if at_s is None or now < at_s or known.key in going or (known.key, record.start_s) in told:
            continue
        if record.restarts < MOST_LINKS:
            found.append(_link(known, grace_s))
    return found


def next_s(observation: Observation, told: Collection[Told], *, now: float, grace_s: float) -> float | None:
    """When the next job's limit is near."""
    times = [
        at_s
        for known in candidates(observation)
        if (known.key, known.record.start_s) not in told and (at_s := due_s(known.record, grace_s)) and at_s > now
    ]
    return min(times, default=None)


def candidates(observation: Observation) -> Iterator[Known]:
    """Jobs that may be told to save for their limit: those of queues, and heterogeneous ones as wholes."""
    yield from observation.known.values()
    yield from observation.het.values()


def saved_in_run(action: ActionRecord, checkpoint: CheckpointRecord | None) -> bool:
    """Whether the run that this link ends has saved anything."""
    start_s = action.detail.get("start_s")
    return checkpoint is not None and isinstance(start_s, int | float) and checkpoint.saved_s >= start_s


def is_link(action: ActionRecord) -> bool:
    """Whether this eviction is a job's own wish."""
    return action.detail.get("chain") is True


def _link(known: Known, grace_s: float) -> Intent:
    record = known.record
    ckpt = record.annotation.ckpt if record.annotation else None
    which = f"--ckpt={ckpt}, {record.restarts + 1} of at most {MOST_LINKS}"
    return Intent(
        kind=ActionKind.EVICT,
        job=known.key,
        reason=REASON,
        message=f"its time limit ends soon: it saves and goes on in another run ({which})",
        detail={
            "beneficiary": "", "from_queue": known.queue or "", "to_queue": "", "chain": True, "lost_gpu_s": 0.0,
            "gpus": record.tasks * record.gpus_per_task, "user": record.user, "start_s": record.start_s,
            "ckpt": ckpt, "grace_s": grace_s,
        },
    )  # fmt: skip
