"""Job arrays as squeue prints them: tasks that wait together in one line, and how many may run at a time (`%N`).

Only that line says the limit (`12_[3-7%2]`), and only while some tasks still wait together in it: a task that was
touched alone has a line of its own. Where none do, the limit is remembered, and asked for where that is not enough.
https://slurm.schedmd.com/job_array.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from slurmext.adapters.slurm_cli.runner import SlurmRunner
from slurmext.model.cluster import TASK_LIMIT, JobRecord
from slurmext.model.job import JobState
from slurmext.ports import Clock

AGAIN_S = 10.0
"""A limit that no line shows any more is asked for again after this time: its user may have changed it."""
MOST_ASKED = 8
"""So many arrays are asked about in one reading: each costs a command."""
_TOGETHER = re.compile(r"^(?P<array>\d+)_\[(?P<tasks>[^%\]]*)(?:%(?P<most>\d+))?\]$")
_RANGE = re.compile(r"^(\d+)(?:-(\d+)(?::(\d+))?)?$")
_THROTTLE = re.compile(r"\bArrayTaskThrottle=(\d+)")


def together(text: str) -> tuple[str, Sequence[str], int] | None:
    """(array, ids of its tasks, how many may run at a time or 0) of `12_[0,3-7:2%2]`; None for a single job or task."""
    found = _TOGETHER.match(text)
    if found is None:
        return None
    array = found["array"]
    return array, [f"{array}_{task}" for task in _numbers(found["tasks"])], int(found["most"] or 0)


def _numbers(text: str) -> Iterator[int]:
    for part in text.split(","):
        if found := _RANGE.match(part):
            first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
            yield from range(first, last + 1, max(1, step))


class TaskLimits:
    """The limits of arrays, from one reading of Slurm to the next."""

    def __init__(self, runner: SlurmRunner, clock: Clock) -> None:
        self._runner, self._clock = runner, clock
        self._known = dict[str, int]()
        self._asked_s = dict[str, float]()

    def applied(
        self, active: Sequence[JobRecord], ended: Sequence[JobRecord], shown: Mapping[str, int]
    ) -> list[JobRecord]:
        """The active jobs with their arrays' limits. `shown` are those of arrays with tasks that wait together."""
        self._known |= shown
        alone = dict[str, bool]()
        here = set[str]()
        for job in active:
            array, _, task = job.slurm_id.partition("_")
            if task and job.annotation is not None:
                here.add(array)
                if array not in shown and job.state is JobState.PENDING:
                    alone[array] = alone.get(array, False) or job.reason == TASK_LIMIT
        self._ask(alone, active, ended)
        self._known = {array: most for array, most in self._known.items() if array in here}
        self._asked_s = {array: at_s for array, at_s in self._asked_s.items() if array in here}
        limits = {array: most for array, most in self._known.items() if most}
        if not limits:
            return list(active)
        return [
            replace(job, array_limit=limits[array]) if (array := job.slurm_id.partition("_")[0]) in limits else job
            for job in active
        ]

    def _ask(self, alone: Mapping[str, bool], active: Sequence[JobRecord], ended: Sequence[JobRecord]) -> None:
        """Ask about arrays that no line shows the limit of. `alone`: whether one of their tasks waits for it."""
        now_s = self._clock.now()
        due = [
            array
            for array, limited in alone.items()
            if array not in self._known
            or ((limited or self._known[array]) and now_s - self._asked_s.get(array, 0) >= AGAIN_S)
        ][:MOST_ASKED]
        if not due:
            return
        # The limit is kept with the task that has the array's own number; that one stays until all have ended.
        heads = {job.raw_id: job.slurm_id for job in (*active, *ended) if job.slurm_id.startswith(f"{job.raw_id}_")}
        for array in due:
            self._asked_s[array] = now_s
            answer = self._runner.run("scontrol", ["--oneliner", "show", "job", heads.get(array, array)])
            if answer.code == 0:
                self._known[array] = max(map(int, _THROTTLE.findall(answer.stdout)), default=0)
