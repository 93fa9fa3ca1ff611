"""Whether the jobs that a job depends on have ended as it asked.

Slurm itself looks at a held job's dependencies only in its backfill loop, up to 30 s later (bf_interval). Nothing is
started too early by reading them here: Slurm checks them once more before it starts a job.
https://slurm.schedmd.com/sbatch.html#OPT_dependency
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState

_TERM = re.compile(r"^(?P<kind>afterany|afterok|afternotok):(?P<job>\d+(?:_\d+|_\*)?)\(unfulfilled\)$")
_GOOD = "COMPLETED"
SINGLETON = "singleton(unfulfilled)"


def waits(text: str, active: Collection[str], ended: Mapping[str, str], *, follows: bool = True) -> bool:
    """Whether a dependency as squeue prints it still keeps the job waiting; True as well where one cannot tell.

    `active` are ids of jobs that have not ended, `ended` maps those that have to their Slurm state. `follows`: another
    job of its user and name goes before it. A term that asks for anything else is Slurm's to judge.
    """
    alternatives = "?" in text
    fulfilled = [
        not follows if term == SINGLETON else _fulfilled(term, active, ended) for term in re.split(r"[,?]", text)
    ]
    return not (any(fulfilled) if alternatives else all(fulfilled))


def followers(active: Iterable[JobRecord]) -> frozenset[str]:
    """Ids of jobs that other jobs of their user and name go before: those that run, and those submitted earlier."""
    by_name = dict[tuple[str, str], list[JobRecord]]()
    for job in active:
        by_name.setdefault((job.user, job.name), []).append(job)
    found = set[str]()
    for jobs in by_name.values():
        waiting = [job for job in jobs if job.state is JobState.PENDING]
        first = min(waiting, key=_number) if waiting and len(waiting) == len(jobs) else None
        found |= {job.slurm_id for job in waiting if job is not first}
    return frozenset(found)


def _number(job: JobRecord) -> tuple[int, int]:
    array, _, task = job.slurm_id.partition("_")
    return int(array.partition("+")[0]), int(task) if task.isdecimal() else 0


def _fulfilled(term: str, active: Collection[str], ended: Mapping[str, str]) -> bool:
    found = _TERM.match(term)
    if found is None:
        return False
    job = found["job"]
    if job.endswith("*"):
        tasks = job[:-1]
        states = [state for job_id, state in ended.items() if job_id.startswith(tasks)]
        if any(job_id.startswith(tasks) for job_id in active):
            return False
    else:
        states = [ended[job]] if job in ended and job not in active else []
    if not states:
        return False
    if found["kind"] == "afterok":
        return all(state == _GOOD for state in states)
    if found["kind"] == "afternotok":
        return any(state != _GOOD for state in states)
    return True
