"""Snapshot and plan as JSON: the stable, versioned interface, checked on the way in.

What is wrong is said with its path in the file, the rule and, for an unknown key, the nearest known one. A pending job
of a queue that does not exist is no error: its plan says UNKNOWN_QUEUE.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slurmext.config.yaml_errors import dotted, nearest
from slurmext.errors import UsageError
from slurmext.model.job import Job, NodeGpus, Placement
from slurmext.model.node import Node
from slurmext.model.plan import Note, Plan
from slurmext.model.queue import IdleRule, Queue, QuotaChange, TypeQuota, UserLimit
from slurmext.model.snapshot import Fence, Settings, Snapshot

_KNOWN_KEYS = sorted(
    {
        f.name
        for kind in (Snapshot, Settings, Node, Queue, TypeQuota, UserLimit, QuotaChange, IdleRule, Job, NodeGpus, Fence)
        for f in fields(kind)
    }
)
_ONLY_WHEN_SET = {
    "jobs": ("eligible_s", "blocked", "evicting_for", "groups", "idle_since_s", "keep_until_s"),
    "queues": ("groups", "each_user_max", "changes", "cut_s", "pre_drain", "idle", "shares_guarantee"),
    "settings": ("fences_stand", "headroom_gpus", "headroom_drainable", "past_factor"),
}
"""Keys left out of a written snapshot while they say nothing."""
_MOST_PROBLEMS = 5
_SHOWN = 60
"""A value longer than this is cut in an error."""


class SnapshotError(UsageError):
    """A snapshot or plan file is wrong; the message has one line for each problem, `path.in.file: what and why`."""


@cache
def _snapshots() -> TypeAdapter[Snapshot]:
    return TypeAdapter(Snapshot)


@cache
def _plans() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def snapshot_from_json(text: bytes | str) -> Snapshot:
    """The snapshot in a JSON text. Raises SnapshotError naming what is wrong."""
    try:
        snapshot = _snapshots().validate_json(text, strict=True)
    except ValidationError as error:
        raise SnapshotError(_told(error)) from error
    problems = list(_problems(snapshot))
    if problems:
        raise SnapshotError(_lines(problems))
    return snapshot


def snapshot_to_json(snapshot: Snapshot, *, indent: int | None = None) -> str:
    """The snapshot as JSON text, every documented key written out."""
    data: dict[str, Any] = _snapshots().dump_python(snapshot, mode="json")
    for part, keys in _ONLY_WHEN_SET.items():
        for item in data[part] if isinstance(data[part], list | tuple) else (data[part],):
            for key in keys:
                if item[key] is None or item[key] == "refuse" or (key != "evicting_for" and not item[key]):
                    del item[key]
    for key in ("fences", "removed", "past_gpus", "sliced", "defragment"):
        if not data[key]:
            del data[key]
    return json.dumps(data, indent=indent, ensure_ascii=False)


def plan_to_json(plan: Plan, *, indent: int | None = None) -> str:
    """The plan as JSON text."""
    return json.dumps(plan_to_data(plan), indent=indent, ensure_ascii=False)


def plan_to_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data in the shape of the plan file."""
    return {
        "version": plan.version,
        "release": [
            {"job": r.job, "placement": _parts(r.placement), "queue_usage": r.queue_usage.value} for r in plan.release
        ],
        "evict": [
            {
                "job": e.job,
                "action": e.action.value,
                "beneficiary": e.beneficiary,
                "reason": e.reason.value,
                "tasks": e.tasks,
                "lost_gpu_s": e.lost_gpu_s,
                "from_queue": e.from_queue,
                "to_queue": e.to_queue,
            }
            for e in plan.evict
        ],
        "move": [
            {
                "job": m.job,
                "from": _parts(m.source),
                "to": _parts(m.target),
                "beneficiary": m.beneficiary,
                "reason": m.reason.value,
            }
            for m in plan.move
        ],
        "fence": [{"beneficiary": f.beneficiary, "placement": _parts(f.placement)} for f in plan.fence],
        **({"note": [_note(note) for note in plan.note]} if plan.note else {}),
        "reasons": {job: reason.value for job, reason in plan.reasons.items()},
    }


def plan_from_json(text: bytes | str) -> Plan:
    """The plan in a JSON text. Raises SnapshotError naming what is wrong."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SnapshotError(f"not valid JSON: {error}") from error
    for move in data.get("move", []) if isinstance(data, dict) else []:
        if isinstance(move, dict):
            for theirs, ours in (("from", "source"), ("to", "target")):
                if theirs in move:
                    move[ours] = move.pop(theirs)
    try:
        return _plans().validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise SnapshotError(_told(error)) from error


def snapshot_schema() -> dict[str, Any]:
    """JSON Schema of the snapshot file."""
    return {**_snapshots().json_schema(), "title": "slurmext snapshot, version 1"}


def plan_schema() -> dict[str, Any]:
    """JSON Schema of the plan file."""
    schema = _plans().json_schema(mode="serialization")
    move = schema["$defs"]["Move"]
    renamed = {"source": "from", "target": "to"}
    move["properties"] = {
        renamed.get(key, key): {**value, "title": renamed[key].title()} if key in renamed else value
        for key, value in move["properties"].items()
    }
    move["required"] = [renamed.get(key, key) for key in move["required"]]
    return {**schema, "title": "slurmext plan, version 1"}


def _note(note: Note) -> dict[str, Any]:
    return {"job": note.job, "reason": note.reason.value, "at_s": note.at_s}


def _parts(placement: Placement) -> list[dict[str, Any]]:
    return [{"node": part.node, "gpus": part.gpus} for part in placement]


def _told(error: ValidationError) -> str:
    """Pydantic's findings in our words."""
    problems: list[str] = []
    for found in error.errors(include_url=False):
        where = dotted(tuple(found["loc"]))
        if found["type"] == "unexpected_keyword_argument":
            key = str(found["loc"][-1])
            problems.append(f"{where}: unknown key {key!r}{nearest(key, _KNOWN_KEYS)}")
        elif found["type"] == "missing":
            problems.append(f"{where}: this key is required")
        elif found["type"] == "json_invalid":
            problems.append(f"not valid JSON: {found['msg'].removeprefix('Invalid JSON: ')}")
        else:
            given = json.dumps(found["input"], ensure_ascii=False, default=str)
            shown = given if len(given) <= _SHOWN else given[: _SHOWN - 3] + "..."
            problems.append(f"{where or 'the file'}: {found['msg'][:1].lower()}{found['msg'][1:]} (it is {shown})")
    return _lines(problems)


def _lines(problems: list[str]) -> str:
    more = len(problems) - _MOST_PROBLEMS
    return "\n".join([*problems[:_MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])


def _problems(snapshot: Snapshot) -> Iterable[str]:
    """What is wrong beyond the shape."""
    yield from _repeated("nodes", "name", [node.name for node in snapshot.nodes])
    yield from _repeated("queues", "path", [queue.path for queue in snapshot.queues])
    yield from _repeated("jobs", "id", [job.id for job in snapshot.jobs])
    for position, node in enumerate(snapshot.nodes):
        if node.gpus < 0:
            yield f"nodes[{position}].gpus: node {node.name!r} has {node.gpus} GPUs; the least is 0"
    for position, queue in enumerate(snapshot.queues):
        yield from _queue_problems(f"queues[{position}]", queue)
    for position, job in enumerate(snapshot.jobs):
        yield from _job_problems(f"jobs[{position}]", job)
    yield from _guarantee_problems(snapshot.queues)


def _repeated(where: str, key: str, names: list[str]) -> Iterable[str]:
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        if name in seen:
            yield f"{where}[{position}].{key}: {name!r} is also {where}[{seen[name]}]; each {key} stands once"
        seen.setdefault(name, position)


def _queue_problems(where: str, queue: Queue) -> Iterable[str]:
    if not queue.path or any(part in {"", "."} for part in queue.path.split("/")):
        yield f"{where}.path: {queue.path!r} is no queue path; write 'org' or 'org/team'"
    for name in ("guaranteed", "reserved", "max", "lending_limit", "weight", "min_runtime_s", "preemption_delay_s"):
        value = getattr(queue, name)
        if value is not None and value < 0:
            yield f"{where}.{name}: queue {queue.path!r} has {value}; the least is 0"
    times = [change.at_s for change in queue.changes]
    if times != sorted(set(times)):
        yield f"{where}.changes: queue {queue.path!r} has changes at {times}; the soonest stands first, each time once"
    for number, change in enumerate(queue.changes):
        for name in ("guaranteed", "reserved", "max", "lending_limit"):
            value = getattr(change, name)
            if value is not None and value < 0:
                yield f"{where}.changes[{number}].{name}: queue {queue.path!r} has {value}; the least is 0"
    for part in (part.strip() for part in queue.job_sort.split(",")):
        if part not in {"", "priority", "fifo", "fair"}:
            yield f"{where}.job_sort: unknown order {part!r}; use a comma list of priority, fifo, fair"


def _job_problems(where: str, job: Job) -> Iterable[str]:
    if job.tasks < 1:
        yield f"{where}.tasks: job {job.id!r} has {job.tasks} tasks; the least is 1"
    if job.gpus_per_task < 0:
        yield f"{where}.gpus_per_task: job {job.id!r} has {job.gpus_per_task}; the least is 0"
    if job.min_tasks is not None and not 1 <= job.min_tasks <= max(1, job.tasks):
        yield f"{where}.min_tasks: job {job.id!r} has min_tasks {job.min_tasks}; from 1 to tasks ({job.tasks}) is right"
    if job.tasks_per_node is not None and job.tasks_per_node < 1:
        yield f"{where}.tasks_per_node: job {job.id!r} has {job.tasks_per_node}; the least is 1"
    for part in job.placement:
        if part.gpus < 0:
            yield f"{where}.placement: job {job.id!r} holds {part.gpus} GPUs on {part.node!r}; the least is 0"


def _guarantee_problems(queues: Iterable[Queue]) -> Iterable[str]:
    """Children may not be promised more than their parent has."""
    stated: Mapping[str, int | None] = {queue.path: queue.guaranteed for queue in queues}
    total: dict[str, int] = {}
    below: dict[str, dict[str, int]] = {}
    for path in sorted(_with_parents(stated), key=lambda path: (-path.count("/"), path)):
        children = below.get(path, {})
        summed, own = sum(children.values()), stated.get(path)
        total[path] = summed if own is None else own
        below.setdefault(path.rpartition("/")[0], {})[path] = total[path]
        if own is not None and summed > own:
            given = " + ".join(f"{gpus} of {child!r}" for child, gpus in children.items() if gpus)
            yield f"queues: {path!r} is guaranteed {own} GPUs, less than its children are promised ({given} = {summed})"


def _with_parents(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")
        found |= {"/".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return found
