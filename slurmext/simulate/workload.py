"""The jobs of a trace, and the CSV file they are kept in."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slurmext.errors import UsageError
from slurmext.model.job import Job, JobState, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """One job of a trace: `tasks` x `gpus_per_task` GPUs for `duration_s` seconds of undisturbed work.

    Times are seconds from the start of the trace. `min_tasks` < `tasks` makes it elastic: with fewer tasks it takes
    longer in proportion. `types` is the accepted GPU types, preferred first, separated by spaces; `groups` the user's
    Unix groups that some limit names, the same way.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by pydantic, no field

    id: str
    queue: str
    submit_s: Seconds
    duration_s: Seconds
    gpus_per_task: int = 1
    tasks: int = 1
    min_tasks: int | None = None
    user: str = ""
    priority: int = 0
    preemptible: bool = True
    time_limit_s: Seconds | None = None
    types: str = ""
    groups: str = ""

    @property
    def gpus(self) -> int:
        """GPUs of the whole job."""
        return self.tasks * self.gpus_per_task

    def as_pending(self) -> Job:
        """The job as the planner sees it when it is submitted."""
        return Job(
            id=self.id,
            queue=self.queue,
            state=JobState.PENDING,
            user=self.user,
            gpus_per_task=self.gpus_per_task,
            tasks=self.tasks,
            min_tasks=self.min_tasks,
            priority=self.priority,
            preemptible=self.preemptible,
            types=tuple(self.types.split()),
            groups=tuple(self.groups.split()),
            submitted_s=self.submit_s,
            time_limit_s=self.time_limit_s,
        )


COLUMNS = tuple(field.name for field in fields(TraceJob))
_JOB = TypeAdapter(TraceJob)


def shape(gpus: int, per_node: int = 8) -> dict[str, int]:
    """Tasks and GPUs per task for a trace that knows only a number of GPUs: as few nodes as possible, whole ones."""
    if gpus <= per_node:
        return {"tasks": 1, "gpus_per_task": gpus}
    if gpus % per_node == 0:
        return {"tasks": gpus // per_node, "gpus_per_task": per_node}
    return {"tasks": gpus, "gpus_per_task": 1}


def load(path: Path) -> list[TraceJob]:
    """The jobs of a trace file. Raises UsageError with file and line for what is wrong."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(_read(csv.DictReader(file), str(path)))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _read(rows: csv.DictReader[str], name: str) -> Iterator[TraceJob]:
    unknown = sorted(set(rows.fieldnames or ()) - set(COLUMNS))
    if unknown:
        raise UsageError(f"{name}: unknown column {unknown[0]!r}; a trace has {', '.join(COLUMNS)}")
    for row in rows:
        given: dict[str, Any] = {key: value for key, value in row.items() if value not in {None, ""}}
        try:
            yield _JOB.validate_python(given)
        except ValidationError as error:
            first = error.errors()[0]
            column = first["loc"][0] if first["loc"] else "row"
            raise UsageError(f"{name}:{rows.line_num}: {column}: {first['msg']}") from error


def save(path: Path, jobs: Iterable[TraceJob]) -> int:
    """Write a trace file; returns the number of jobs."""
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for job in jobs:
            values = (getattr(job, name) for name in COLUMNS)
            writer.writerow(["" if value is None else value for value in values])
            count += 1
    return count
