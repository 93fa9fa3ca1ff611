"""Whether the jobs that a job depends on have ended as it asked.

Slurm itself looks at a held job's dependencies only in its backfill loop, up to 30 s later (bf_interval). Nothing is
started too early by reading them here: Slurm checks them once more before it starts a job.
https://slurm.schedmd.com/sbatch.html#OPT_dependency
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_TERM = re.compile(r"^(?P<kind>afterany|afterok|afternotok):(?P<job>\d+(?:_\d+|_\*)?)\(unfulfilled\)$")
_GOOD = "COMPLETED"


def waits(text: str, active: Collection[str], ended: Mapping[str, str]) -> bool:
    """Whether a dependency as squeue prints it still keeps the job waiting; True as well where one cannot tell.

    `active` are ids of jobs that have not ended, `ended` maps those that have to their Slurm state. A term that asks
    for anything but the end of jobs is Slurm's to judge.
    """
    alternatives = "?" in text
    fulfilled = [_fulfilled(term, active, ended) for term in re.split(r"[,?]", text)]
    return not (any(fulfilled) if alternatives else all(fulfilled))


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
