"""Limits of Slurm's own (a QOS, an account, licenses): learned from the jobs that Slurm would not start when released.

Nobody can ask Slurm what it would say. But it says it of a released job within a second or two. As many jobs like that
one as ran then may run from now on; one more is tried when a job of its user or account ends, and now and then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from slurmext.model.cluster import TASK_LIMIT, ClusterView, JobRecord
from slurmext.model.job import Cap, CapKind, JobState
from slurmext.model.state import ActionKind, ActionRecord, ActionState

REFUSED_S = 2.0
"""So long a released job may show such a reason before its release is taken back: its GPUs are for others."""
_LICENSES = "Licenses"
# https://slurm.schedmd.com/job_reason_codes.html: those that other nodes, or time alone, do not help.
_NAMES = frozenset(
    {
        TASK_LIMIT, _LICENSES, "MaxMemPerLimit", "InvalidAccount", "InvalidQOS", "QOSNotAllowed", "AccountNotAllowed",
        "AccountingPolicy", "PartitionDown", "PartitionInactive", "PartitionNodeLimit", "PartitionTimeLimit",
        "Reservation", "ReservationDeleted", "DeadLine", "BurstBufferOperation",
    }
)  # fmt: skip
_FAMILIES = ("Assoc", "QOS")
_RUNS = frozenset({JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN})
_AGAIN_S = 30.0
_LONGEST_S = 600.0
_ONE_ROUND_S = 5.0
"""Jobs refused within this time were refused together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What Slurm said last of jobs that are alike: its reason, when, how many of them ran, and how often it said so."""

    reason: str
    at_s: float
    running: int
    rounds: int


def refused_by(record: JobRecord) -> str:
    """Slurm's reason, if it is a limit that keeps the pending job from starting wherever it goes; else empty."""
    reason = record.reason.split(",", 1)[0]
    return reason if reason in _NAMES or reason.startswith(_FAMILIES) else ""


def kinds(record: JobRecord) -> tuple[str, str]:
    """The same for jobs that Slurm's limits can hardly tell apart; the second for those of the same time limit alone.

    Slurm gives a job without a limit one of a year when it starts.
    """
    asked = record.annotation.queue if record.annotation is not None else None
    size = f"{record.nodes}x{record.tasks}x{record.gpus_per_task}"
    kind = f"{record.user} {record.account} {record.partition} {record.terms} {asked or '-'} {size}"
    return kind, f"{kind} {record.time_limit_s or '-'}"


def cap_of(record: JobRecord, caps: Mapping[str, Cap]) -> Cap | None:
    """The cap that holds for jobs like this one, if any."""
    if not caps:
        return None
    kind, timed = kinds(record)
    return caps.get(kind) or caps.get(timed)


def refusal(record: JobRecord, reason: str, others: Iterable[JobRecord]) -> dict[str, object]:
    """What the record of a release that Slurm would not carry out says about it."""
    if reason == TASK_LIMIT:
        return {}  # squeue tells how many may run
    kind = kinds(record)["Wall" in reason or "Time" in reason]
    running = sum(other.state in _RUNS and kind in kinds(other) for other in others)
    return {"limit": reason, "alike": kind, "running": running}


def refusals(actions: Iterable[ActionRecord]) -> dict[str, Refused]:
    """By kind of job, what Slurm refused of late."""
    by_kind = dict[str, list[ActionRecord]]()
    for action in actions:
        refused = action.kind is ActionKind.RELEASE and action.state is ActionState.ABANDONED
        if refused and action.detail.get("limit"):
            by_kind.setdefault(str(action.detail["alike"]), []).append(action)
    found = dict[str, Refused]()
    for kind, failed in by_kind.items():
        failed.sort(key=lambda action: action.changed_s)
        rounds = 1 + sum(later.changed_s - earlier.changed_s > _ONE_ROUND_S for earlier, later in pairwise(failed))
        last = failed[-1]
        running = last.detail.get("running")
        found[kind] = Refused(
            reason=str(last.detail["limit"]),
            at_s=last.changed_s,
            running=running if isinstance(running, int) else 0,
            rounds=rounds,
        )
    return found


def caps_now(refused: Mapping[str, Refused], view: ClusterView, now_s: float) -> dict[str, Cap]:
    """By kind of job, how many of it Slurm lets run, as far as is known, and one more where it is time to try."""
    if not refused:
        return {}
    running = Counter[str]()
    who = dict[str, tuple[str, str]]()
    for record in view.jobs:
        if record.annotation is not None:
            for kind in kinds(record):
                running[kind] += record.state in _RUNS
                who[kind] = record.user, record.account
    return {
        kind: Cap(
            name=f"{said.reason} {kind}",
            most=max(said.running, running[kind]) + (_may_try(kind, said, running[kind], who[kind], view, now_s)),
            kind=CapKind.SLURM,
        )
        for kind, said in refused.items()
        if kind in who
    }


def _may_try(kind: str, said: Refused, running: int, who: tuple[str, str], view: ClusterView, now_s: float) -> bool:
    """Whether one more may start than is known to run: more do already, time has passed, or somebody else has ended."""
    if running > said.running or now_s - said.at_s >= min(_AGAIN_S * 2 ** (said.rounds - 1), _LONGEST_S):
        return True
    return any(
        (job.end_s or 0) > said.at_s
        and kind not in kinds(job)
        and (said.reason == _LICENSES or job.user == who[0] or (job.account == who[1] != ""))
        for job in view.ended
    )
