"""The first lines of `slurmext job explain`: what the job does, its runs, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slurmext.cli.formats import clock, span
from slurmext.model.amounts import counted

Answer = Mapping[str, Any]

STATES = {"running": "runs", "completing": "is ending", "suspended": "is suspended", "pending": "waits"}
ENDS = {
    "cancelled": "was cancelled", "timeout": "reached its time limit", "out_of_memory": "ran out of memory",
    "node_fail": "lost its node", "boot_fail": "had a node that did not boot", "deadline": "reached its deadline",
    "preempted": "was preempted by Slurm", "launch_failed": "could not be launched",
}  # fmt: skip
"""What is said of a state that Slurm has at the end; of others (completed, failed) the state itself."""
FINE = frozenset({"completed", "cancelled", "ended"})


def head(answer: Answer) -> Iterator[str]:
    """Who, what, where and since when."""
    job, now = answer["job"], answer["now_s"]
    if job["end_s"] is not None:
        doing = _ended(job)
    elif job["state"] == "pending":
        since = answer.get("waits_since_s") or job["submit_s"]
        doing = f"waits since {clock(since)} ({span(now - since)})"
    elif job["start_s"] is None:
        doing = STATES.get(job["state"], "is in a state that could not be read")
    else:
        doing = f"{STATES.get(job['state'], job['state'])} on {job['nodes'] or '?'} since {clock(job['start_s'])}"
    name = f" ({job['name']})" if job["name"] else ""
    had = answer.get("had_slices") or ()
    gpus = job["gpus"] or sum(each["milli"] for each in had) / 1000
    sliced = gpus != int(gpus) or answer.get("slices") or had
    what = f"{counted(gpus, 'GPU')}{' in slices' if sliced else ''}" if gpus else "no GPUs"
    yield f"Job {job['job_id']}{name} of {job['user']}, {what} in queue {job['queue'] or '-'}: {doing}."
    yield from _runs(answer)
    if job["end_s"] is not None and job["state"] not in FINE:
        show = f"scontrol show job {job['job_id']}"
        yield f"Its output is in the file that '{show}' names as StdOut, for as long as Slurm remembers the job."


def _ended(job: Answer) -> str:
    ran = "" if job["start_s"] is None else f" after {span(max(0, job['end_s'] - job['start_s']))}"
    where = f" on {job['nodes']}" if job["nodes"] and job["start_s"] is not None else ""
    why = f" ({job['message']})" if job["message"] and job["state"] not in FINE else ""
    return f"{ENDS.get(job['state'], job['state'])} at {clock(job['end_s'])}{ran}{where}{why}"


def _runs(answer: Answer) -> Iterator[str]:
    """How often it was requeued, and why."""
    requeues, links = answer.get("requeues") or 0, answer.get("links") or 0
    if not requeues:
        return
    times = f"{requeues} time{'s' if requeues > 1 else ''}"
    limit = f", {links} of at most {answer['most_links']} for its time limit (--ckpt=…,chain)" if links else ""
    runs = answer["runs"]
    now = f"This is run {runs}: it" if answer["job"]["end_s"] is None and answer["waits_since_s"] is None else "It"
    yield f"{now} was requeued {times}{limit}."
