"""Scenarios: small clusters in YAML with what the planner must do. They are tests, and they are documentation.

A file is one theme with several named scenarios. Shorthand keeps them readable:

    nodes:  {n1: 8, n2: {gpus: 8, gpu_type: a100, state: drain}}       n[1-4]: 8 is four nodes
    queues: {prod: {guaranteed: 16, max: 32}, prod/chat: {}}
    jobs:
      - 41 research running 4 on n1                    4 GPUs as 4 tasks of one (gang)
      - 42 research running 2x4 on n1:4 n2:4 since 100 two tasks of 4 GPUs, started at 100
      - 57 prod/chat pending 2x8 priority=5            further key=value pairs are fields of the job
      - 12_3 research pending 2 caps=12%2              at most 2 tasks of array 12 at a time (QOSMax%2: Slurm's)
    expect:
      release: {57: n1:8 n2:8}                         or a list of ids: placement does not matter
      evict:   {41: 57}                                victim: beneficiary, or victim: {for: 57, reason: ..., ...};
                                                       who leaves for nobody in particular: 41: QUOTA_CUT
      move:    {43: n2 for 58}
      fence:   {57: n1:8}
      reasons: {57: RECLAIMING}
      note:    {41: QUOTA_CUT at 1300}                 what a job is told will happen, and when
      then:    {release: [57]}                         the plan once victims are gone

What `expect` does not name it does not check, except that a bucket that is left out must be empty (reasons excepted).
Every law of `policy.invariants` is checked as well; five times that the same world gives the same plan and that nothing
more is done while victims are on their way out; and that plans come to rest and stay so for five rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from slurmext.errors import UsageError
from slurmext.model.job import Cap, CapKind, Job, JobState, NodeGpus, Placement
from slurmext.model.node import Node
from slurmext.model.plan import EvictAction, Plan
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Defragment, Fence, Settings, Snapshot
from slurmext.policy.departures import WITHOUT_BENEFICIARY
from slurmext.policy.invariants import violations
from slurmext.policy.planner import plan
from slurmext.testing.world import step, told

NOW_S = 1000
ROUNDS = 20
STABLE = 5
_JOB = re.compile(
    r"^(?P<id>\S+) (?P<queue>\S+) (?P<state>\w+) (?:(?P<tasks>\d+)x)?(?P<gpus>\d+)"
    r"(?: on (?P<nodes>\S+(?: \S+:\d+)*))?(?: since (?P<since>\d+))?(?P<rest>(?: \w+=\S+)*)$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One named situation and what must come of it."""

    file: str
    name: str
    snapshot: Snapshot
    expect: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def load(path: Path) -> list[Scenario]:
    """The scenarios of one file. Raises UsageError naming the file, the scenario and what is wrong."""
    data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    found: list[Scenario] = []
    common = data.get("common", {})
    for name, case in data["scenarios"].items():
        try:
            merged = {**common, **case}
            found.append(
                Scenario(file=path.stem, name=name, snapshot=_snapshot(merged), expect=merged.get("expect", {}))
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: scenario {name!r}: {error}") from error
    return found


def check(scenario: Scenario) -> list[str]:
    """What is not as expected, in words; empty when all is well."""
    snapshot, expect = scenario.snapshot, scenario.expect
    made = plan(snapshot)
    problems = [str(broken) for broken in violations(snapshot, made)]
    problems += _differences(made, expect, "now")
    after = snapshot
    if "then" in expect:
        after = step(snapshot, made)
        problems += _differences(plan(after), expect["then"], "then")
    return problems + list(_fickle(snapshot, made)) + list(_unrest(snapshot))


def _fickle(snapshot: Snapshot, made: Plan) -> Iterator[str]:
    """The same plan for the same world in any order, and nothing more to do while victims are on their way out."""
    mirrored = replace(snapshot, nodes=snapshot.nodes[::-1], queues=snapshot.queues[::-1], jobs=snapshot.jobs[::-1])
    for number in range(1, STABLE + 1):
        if plan(mirrored if number % 2 else snapshot) != made:
            yield f"again {number}: another plan for the same world"
    if any(evict.action is EvictAction.SHRINK for evict in made.evict):
        return  # what an elastic job gives is there at once: nobody is on the way out
    leaving = told(snapshot, made)
    for number in range(1, STABLE + 1):
        again = plan(leaving)
        found = [*again.release, *again.evict, *again.move]
        if found:
            yield f"while victims leave {number}: {', '.join(str(action) for action in found)}"
            return
        leaving = told(leaving, again)


def _unrest(snapshot: Snapshot) -> Iterator[str]:
    quiet = 0
    for number in range(ROUNDS):
        made = plan(snapshot)
        yield from (f"round {number + 1}: {broken}" for broken in violations(snapshot, made))
        quiet = 0 if made.release or made.evict or made.move else quiet + 1
        if quiet > STABLE:
            return
        snapshot = step(snapshot, made, after_s=0)
    yield f"plans do not come to rest within {ROUNDS} rounds"


# --- what is expected -------------------------------------------------------------------------------------------------


def _differences(made: Plan, expect: Mapping[str, Any], when: str) -> Iterator[str]:
    releases = {release.job: release for release in made.release}
    yield from _same_ids(f"{when}: release", releases, expect.get("release", []))
    for job_id, where in _items(expect.get("release", [])):
        if job_id not in releases or where is None:
            continue
        usage = where if where in {"guaranteed", "borrowed"} else None
        if usage is not None and releases[job_id].queue_usage.value != usage:
            yield f"{when}: {job_id} starts on {releases[job_id].queue_usage.value} GPUs, not {usage}"
        if usage is None and _placement(where) != releases[job_id].placement:
            yield f"{when}: {job_id} starts on {_shown(releases[job_id].placement)}, not {where}"
    yield from _evict_differences(made, expect.get("evict", {}), when)
    notes = {note.job: f"{note.reason.value} at {note.at_s:g}" for note in made.note}
    yield from _same_ids(f"{when}: note", notes, expect.get("note", {}))
    for job_id, what in _items(expect.get("note", {})):
        if job_id in notes and what is not None and notes[job_id] != what:
            yield f"{when}: {job_id} is told {notes[job_id]}, not {what}"
    moves = {move.job: move for move in made.move}
    yield from _same_ids(f"{when}: move", moves, expect.get("move", {}))
    for job_id, what in _items(expect.get("move", {})):
        if job_id in moves and what is not None:
            target, beneficiary = moves[job_id].target, moves[job_id].beneficiary
            shown = f"{' '.join(part.node for part in target)} for {beneficiary or 'nobody'}"
            if shown != what:
                yield f"{when}: {job_id} moves to {shown}, not {what}"
    fences = {fence.beneficiary: fence for fence in made.fence}
    for job_id, where in _items(expect.get("fence", {})):
        if job_id not in fences:
            yield f"{when}: nothing is fenced for {job_id}"
        elif where is not None and _placement(where) != fences[job_id].placement:
            yield f"{when}: {_shown(fences[job_id].placement)} is fenced for {job_id}, not {where}"
    for job_id, reason in _items(expect.get("reasons", {})):
        found = made.reasons.get(job_id)
        if found is None or found.value != reason:
            yield f"{when}: {job_id} waits because of {found}, not {reason}"


def _evict_differences(made: Plan, expected: Any, when: str) -> Iterator[str]:
    evicts = {evict.job: evict for evict in made.evict}
    yield from _same_ids(f"{when}: evict", evicts, expected)
    for job_id, what in _items(expected):
        if job_id not in evicts or what is None:
            continue
        wanted = what if isinstance(what, dict) else {"reason" if what in WITHOUT_BENEFICIARY else "for": what}
        found = evicts[job_id]
        actual = {
            "for": found.beneficiary,
            "reason": found.reason.value,
            "action": found.action.value,
            "tasks": found.tasks,
            "lost_gpu_s": found.lost_gpu_s,
            "from": found.from_queue,
            "to": found.to_queue,
        }
        for key, value in wanted.items():
            if str(actual[key]) != str(value):
                yield f"{when}: {job_id} leaves with {key} {actual[key]}, not {value}"


def _same_ids(what: str, actual: Mapping[str, object], expected: Any) -> Iterator[str]:
    wanted = {job_id for job_id, _ in _items(expected)}
    if wanted != set(actual):
        yield f"{what} {sorted(actual) or 'nobody'}, not {sorted(wanted) or 'nobody'}"


def _items(expected: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(expected, dict):
        yield from ((str(key), value) for key, value in expected.items())
    else:
        yield from ((str(key), None) for key in expected)


def _shown(placement: Placement) -> str:
    return " ".join(f"{part.node}:{part.gpus}" for part in placement)


# --- shorthand --------------------------------------------------------------------------------------------------------


def _snapshot(case: Mapping[str, Any]) -> Snapshot:
    nodes: list[dict[str, Any]] = []
    for names, what in case["nodes"].items():
        rest = what if isinstance(what, dict) else {"gpus": what}
        nodes += [{"name": name, **rest} for name in NodeSet(names, resolver=RESOLVER_NOGROUP)]
    queues = [{"path": path, **(rest or {})} for path, rest in case.get("queues", {}).items()]
    jobs = [_job(line) if isinstance(line, str) else line for line in case.get("jobs", [])]
    snapshot = Snapshot(
        now_s=case.get("now_s", NOW_S),
        settings=TypeAdapter(Settings).validate_python(case.get("settings", {})),
        nodes=TypeAdapter(tuple[Node, ...]).validate_python(nodes),
        queues=TypeAdapter(tuple[Queue, ...]).validate_python(queues),
        jobs=TypeAdapter(tuple[Job, ...]).validate_python(jobs),
    )
    kept = tuple(
        Fence(beneficiary=str(job_id), placement=_placement(where)) for job_id, where in case.get("fences", {}).items()
    )
    wish = case.get("defragment")
    due = None if wish is None else TypeAdapter(Defragment).validate_python(wish)
    return replace(
        snapshot,
        fences=kept,
        removed=case.get("removed", {}),
        past_gpus=case.get("past_gpus", {}),
        defragment=due,
    )


def _job(line: str) -> dict[str, Any]:
    found = _JOB.match(line.strip())
    if found is None:
        raise ValueError(f"job {line!r} is not 'ID QUEUE STATE [TASKSx]GPUS [on NODE[:GPUS]...] [since S] [key=value]'")
    tasks, gpus = found["tasks"], int(found["gpus"])
    job: dict[str, Any] = {"id": found["id"], "queue": found["queue"], "state": JobState(found["state"])}
    job |= {"tasks": int(tasks), "gpus_per_task": gpus} if tasks else {"tasks": gpus, "gpus_per_task": 1}
    if found["nodes"] is not None:
        whole = job["tasks"] * job["gpus_per_task"]
        where = found["nodes"] if ":" in found["nodes"] else f"{found['nodes']}:{whole}"
        job["placement"] = _placement(where)
        job["started_s"] = 0
    if found["since"] is not None:
        job["started_s"] = int(found["since"])
    known = {field.name for field in fields(Job)}
    for pair in found["rest"].split():
        key, _, text = pair.partition("=")
        if key not in known:
            raise ValueError(f"job {line!r} has no field {key!r}")
        value: Any = tuple(text.split(",")) if key in {"types", "groups"} else YAML(typ="safe").load(text)
        if key == "caps":
            value = tuple(cap_of(one) for one in text.split(","))
        job[key] = str(value) if key in {"user", "evicting_for", "blocked"} else value
    return job


def cap_of(text: str) -> Cap:
    """`12%2`: an array's; a name that is no number is a limit of Slurm's."""
    name, _, most = text.rpartition("%")
    return Cap(name=name, most=int(most), kind=CapKind.ARRAY if name.isdecimal() else CapKind.SLURM)


def _placement(where: str) -> Placement:
    """`n1:4 n2:8` as a placement, in order of node."""
    parts = [part.rpartition(":") for part in str(where).split()]
    return tuple(NodeGpus(node=node, gpus=int(gpus)) for node, _, gpus in sorted(parts))
