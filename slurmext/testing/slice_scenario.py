"""Scenarios of slices: a few GPUs in YAML with what the slice planner must do. Tests, and documentation.

    nodes:
      n1: 2 h100 mig                      type and use of its GPUs: n1-0 and n1-1
      n2: {gpus: 2 h100 whole, idle: 1, cpus: 16, memory_mib: 65536}
    queues: {q: {max: 4}}
    jobs:
      - a q running 3g.40gb on n1-0@4 since 0
      - b q pending 1g.10gb:2             two on a node;  x2: on each of two nodes
      - c q pending share=25/10240        percent and MiB of a GPU
      - d q pending need=18432/30 user=u  whatever has so many MiB and percent of the SMs
    warm: [n1-1 1g.10gb@0]                instances that nobody has; foreign: those somebody else made
    expect:
      reserve:   {b: n1-0@0 n1-0@1}       or a list of ids: the places do not matter
      reasons:   {c: SLICE_FULL}
      take:      [n2 shared for c]        n1-1 mig for d: a GPU that is held already changes its use
      return:    [n1-1]
      free_warm: [n1-1 1g.10gb@0]
      evict:     {a: b}
      move:      {a: n1-1@0 for b}
      hold:      {b: n1-0@4}
      then:      {...}                    the plan after the world has gone on with `ends: [jobs]`

Jobs were submitted one second after the other, in the order of the list, less than two minutes ago.
A bucket that is left out must be empty, `hold` and `reasons` excepted. Every law is checked, and that the order of the
lists changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from slurmext.errors import UsageError
from slurmext.model.job import Job
from slurmext.model.queue import Queue
from slurmext.model.slicing import (
    Geometry,
    GpuUse,
    Instance,
    InstanceState,
    SlicedGpu,
    SliceJob,
    SliceNeed,
    SliceNode,
    SlicePlace,
    SlicePlan,
    SliceSettings,
    SliceSnapshot,
    TakeGpu,
)
from slurmext.policy.slicing import plan_slices
from slurmext.testing.scenario import cap_of
from slurmext.testing.slice_laws import violations
from slurmext.testing.slice_world import show, step
from slurmext.testing.slicing import gpus

NOW_S = 1000
_JOB = re.compile(
    r"^(?P<id>\S+) (?P<queue>\S+) (?P<state>\w+) (?P<need>\S+?)(?::(?P<per_node>\d+))?(?: x(?P<nodes>\d+))?"
    r"(?: on (?P<places>\S+(?: \S+@\S+)*))?(?: since (?P<since>\d+))?(?P<rest>(?: \w+=\S+)*)$"
)
_PLACE = re.compile(r"^(?P<gpu>\S+?)(?:@(?P<start>\d+))?$")
_TEXTS = {"user", "evicting_for", "blocked"}
_LISTS = {"types", "groups", "candidates"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceScenario:
    """One named situation and what must come of it."""

    file: str
    name: str
    snapshot: SliceSnapshot
    expect: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def load(path: Path) -> list[SliceScenario]:
    """The scenarios of one file. Raises UsageError naming the file, the scenario and what is wrong."""
    data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    found: list[SliceScenario] = []
    for name, case in data["scenarios"].items():
        try:
            merged = {**data.get("common", {}), **case}
            found.append(
                SliceScenario(file=path.stem, name=name, snapshot=_snapshot(merged), expect=merged.get("expect", {}))
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: scenario {name!r}: {error}") from error
    return found


def check(scenario: SliceScenario) -> list[str]:
    """What is not as expected, in words; empty when all is well."""
    return list(_check(scenario.snapshot, scenario.expect, "now"))


def _check(snapshot: SliceSnapshot, expect: Mapping[str, Any], when: str) -> Iterator[str]:
    made = plan_slices(snapshot)
    yield from (f"{when}: {broken}" for broken in violations(snapshot, made))
    mirrored = replace(
        snapshot,
        nodes=snapshot.nodes[::-1],
        gpus=snapshot.gpus[::-1],
        jobs=snapshot.jobs[::-1],
        queues=snapshot.queues[::-1],
    )
    if plan_slices(mirrored) != made:
        yield f"{when}: another plan for the same world"
    yield from _differences(made, expect, when)
    if "then" in expect:
        later = expect["then"]
        after = step(snapshot, made, after_s=later.get("after_s", 10), ends=[str(job) for job in later.get("ends", ())])
        yield from _check(after, later, f"{when}, then")


def _differences(made: SlicePlan, expect: Mapping[str, Any], when: str) -> Iterator[str]:
    reserved = {one.job: _shown(one.places) for one in made.reserve}
    yield from _compare(f"{when}: reserve", reserved, expect.get("reserve", []))
    yield from _compare(f"{when}: evict", {one.job: one.beneficiary for one in made.evict}, expect.get("evict", {}))
    moved = {one.job: f"{_shown(one.target)} for {one.beneficiary}" for one in made.move}
    yield from _compare(f"{when}: move", moved, expect.get("move", {}))
    taken = sorted(
        f"{one.gpu or one.node} {one.use.value}" + (f" for {one.job}" if one.job else "") for one in made.take_gpu
    )
    for what, actual, wanted in (
        ("take", taken, expect.get("take", [])),
        ("return", sorted(one.gpu for one in made.return_gpu), expect.get("return", [])),
        (
            "free_warm",
            sorted(f"{one.gpu} {one.profile}@{one.start}" for one in made.free_warm),
            expect.get("free_warm", []),
        ),
    ):
        if actual != sorted(wanted):
            yield f"{when}: {what} is {actual}, not {sorted(wanted)}"
    holds = {one.job: _shown(one.places) for one in made.hold}
    for job, where in (expect.get("hold") or {}).items():
        if holds.get(str(job)) != where:
            yield f"{when}: {holds.get(str(job))} is held for {job}, not {where}"
    for job, reason in (expect.get("reasons") or {}).items():
        code, _, part = str(reason).partition(": ")
        found = made.reasons.get(str(job))
        if found is None or found.value != code:
            yield f"{when}: {job} waits because of {found} ({made.details.get(str(job))}), not {code}"
        elif part not in made.details.get(str(job), ""):
            yield f"{when}: {job} is told {made.details.get(str(job))!r}, without {part!r}"
    for job, part in (expect.get("why") or {}).items():
        why = next((one.why for one in made.reserve if one.job == str(job)), None)
        if why is None or str(part) not in why:
            yield f"{when}: {job} is told {why!r}, without {part!r}"


def _compare(what: str, actual: Mapping[str, str], wanted: Any) -> Iterator[str]:
    expected = (
        {str(key): wanted[key] for key in wanted} if isinstance(wanted, dict) else dict.fromkeys(map(str, wanted))
    )
    if set(actual) != set(expected):
        yield f"{what} {sorted(actual) or 'nobody'}, not {sorted(expected) or 'nobody'}"
    for key, value in expected.items():
        if value is not None and key in actual and actual[key] != str(value):
            yield f"{what}: {key} gets {actual[key]}, not {value}"


def _shown(places: tuple[SlicePlace, ...]) -> str:
    return " ".join(place.gpu if place.start is None else f"{place.gpu}@{place.start}" for place in places)


# --- shorthand --------------------------------------------------------------------------------------------------------


def _snapshot(case: Mapping[str, Any]) -> SliceSnapshot:
    nodes: list[SliceNode] = []
    cards: list[SlicedGpu] = []
    for name, what in case["nodes"].items():
        row = what if isinstance(what, dict) else {"gpus": what}
        for part in str(row["gpus"]).split(", "):
            count, gpu_type, use = part.split()
            first = sum(card.node == name for card in cards)
            cards += [
                replace(card, minor=card.minor + first, uuid=f"{name}-{card.minor + first}")
                for card in gpus(name, gpu_type, int(count), GpuUse(use))
            ]
        idle = {"idle_gpus": {gpu_type: row["idle"]}} if "idle" in row else {}
        idle["shut"] = row.get("shut", False)
        rest = {"free_cpus": row.get("cpus"), "free_memory_mib": row.get("memory_mib"), "state": row.get("state", "up")}
        nodes.append(TypeAdapter(SliceNode).validate_python({"name": name, **rest, **idle}))
    now_s = case.get("now_s", NOW_S)
    jobs = [_job(line, cards, now_s - 100 + number) for number, line in enumerate(case.get("jobs", []))]
    changed = TypeAdapter(dict[str, dict[str, Geometry | bool | float]]).validate_python(case.get("gpus", {}))
    cards = [replace(card, **changed.get(card.uuid, {})) for card in cards]  # pyright: ignore[reportArgumentType]
    extra = [*_instances(case.get("warm", []), "warm"), *_instances(case.get("foreign", []), "foreign")]
    shown = [
        replace(card, instances=(*card.instances, *(one for uuid, one in extra if uuid == card.uuid)))
        for card in show(cards, jobs, now_s=now_s)
    ]
    queues = [{"path": path, **(rest or {})} for path, rest in case.get("queues", {"q": {}}).items()]
    return SliceSnapshot(
        now_s=now_s,
        settings=TypeAdapter(SliceSettings).validate_python(case.get("settings", {})),
        nodes=tuple(nodes),
        gpus=tuple(shown),
        queues=TypeAdapter(tuple[Queue, ...]).validate_python(queues),
        jobs=tuple(jobs),
        whole=TypeAdapter(tuple[Job, ...]).validate_python(case.get("whole", [])),
        beside=TypeAdapter(dict[str, tuple[int, int]]).validate_python(case.get("beside", {})),
        wanted_gpus=case.get("wanted_gpus", {}),
        owed=tuple(str(job) for job in case.get("owed", ())),
        taking=TypeAdapter(tuple[TakeGpu, ...]).validate_python(case.get("taking", [])),
    )


def _instances(lines: list[str], state: str) -> Iterator[tuple[str, Instance]]:
    for line in lines:
        gpu, _, what = line.partition(" ")
        profile, _, start = what.partition("@")
        yield gpu, Instance(profile=profile, start=int(start), state=InstanceState(state))


def _job(line: str, cards: list[SlicedGpu], submitted_s: float) -> SliceJob:
    found = _JOB.match(line.strip())
    if found is None:
        raise ValueError(f"job {line!r} is not 'ID QUEUE STATE NEED[:N] [xNODES] [on PLACES] [since S] [key=value]'")
    need = _need(found["need"], int(found["per_node"] or 1), int(found["nodes"] or 1))
    values: dict[str, Any] = {"submitted_s": submitted_s}
    if found["state"] != "pending":
        values["started_s"] = int(found["since"] or 0)
    known = {field.name for field in fields(SliceJob)}
    for pair in found["rest"].split():
        key, _, text = pair.partition("=")
        if key not in known:
            raise ValueError(f"job {line!r} has no field {key!r}")
        value: Any = tuple(text.split(",")) if key in _LISTS else YAML(typ="safe").load(text)
        if key == "caps":
            value = tuple(cap_of(one) for one in text.split(","))
        values[key] = str(value) if key in _TEXTS else value
    places = tuple(_place(where, need, cards) for where in (found["places"] or "").split())
    job = {"id": found["id"], "queue": found["queue"], "state": found["state"], "need": need, "places": places}
    return TypeAdapter(SliceJob).validate_python({**job, **values})


def _need(text: str, per_node: int, nodes: int) -> SliceNeed:
    kind, _, numbers = text.partition("=")
    first, _, second = numbers.partition("/")
    if kind == "share":
        memory = int(second) if second else None
        return SliceNeed(share_pct=int(first), memory_mib=memory, per_node=per_node, nodes=nodes)
    if kind == "need":
        memory, compute = (int(first) if first else None), (int(second) if second else None)
        return SliceNeed(memory_mib=memory, compute_pct=compute, per_node=per_node, nodes=nodes)
    return SliceNeed(profile=text, per_node=per_node, nodes=nodes)


def _place(where: str, need: SliceNeed, cards: list[SlicedGpu]) -> SlicePlace:
    found = _PLACE.match(where)
    if found is None:
        raise ValueError(f"{where!r} is not GPU or GPU@START")
    card = next(card for card in cards if card.uuid == found["gpu"])
    if found["start"] is None:
        memory = need.memory_mib if need.memory_mib is not None else card.memory_mib * (need.share_pct or 0) // 100
        return SlicePlace(node=card.node, gpu=card.uuid, share_pct=need.share_pct, memory_mib=memory)
    return SlicePlace(node=card.node, gpu=card.uuid, profile=need.profile, start=int(found["start"]))
