"""The numbers of a policy over time: what its calendar makes of the queue tree, and that the tree always adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from slurmext.config.calendar import DAY_S, Active, calendar_of
from slurmext.config.quota import Resolved, resolve_queues
from slurmext.config.yaml_errors import ConfigError, Document, Problem
from slurmext.model.queue import Queue, QuotaChange

if TYPE_CHECKING:
    from slurmext.config.policy_document import QueueDocument

HORIZON_S = 30 * DAY_S
"""So far ahead queues know their changes."""
MOST_CHANGES = 20
"""So many changes a queue knows."""
YEAR_S = 366 * DAY_S


class Schedule:
    """The queues of a policy at any time. What was worked out is remembered until the next change."""

    def __init__(
        self, document: Document, items: Mapping[str, QueueDocument], always: Resolved, zone: ZoneInfo
    ) -> None:
        self.calendar = calendar_of(items, zone)
        self.zone = zone
        self._document, self._items = document, items
        self._states: dict[Active, Resolved] = {frozenset(): always}
        self._now: tuple[float, float, Resolved] | None = None
        self._largest: tuple[float, dict[str, int | None]] | None = None

    def at(self, now_s: float) -> Resolved:
        """The queues with the numbers in force at that time, and the calendar's next changes of them."""
        if not self.calendar.windows:
            return self._states[frozenset()]
        if self._now is None or not self._now[0] <= now_s < self._now[1]:
            changes = self.calendar.changes(now_s, now_s + HORIZON_S)
            until_s = min([at_s for at_s, _ in changes[1:2]], default=now_s + DAY_S)
            queues = _with_changes([(at_s, self._state(active).queues) for at_s, active in changes])
            now = Resolved(queues=queues, dynamic=self._state(changes[0][1]).dynamic)
            self._now = now_s, min(until_s, now_s + DAY_S), now
        return self._now[2]

    def states(self, from_s: float, until_s: float) -> list[tuple[float, tuple[Queue, ...]]]:
        """The queues in force at `from_s`, and from each later time on, up to `until_s`."""
        return [(at_s, self._state(active).queues) for at_s, active in self.calendar.changes(from_s, until_s)]

    def different_states(self, now_s: float) -> list[tuple[Queue, ...]]:
        """The queues as they are at some time of the year from then on, each state once."""
        return list({id(queues): queues for _, queues in self.states(now_s, now_s + YEAR_S)}.values())

    def periods(self, from_s: float, until_s: float) -> list[tuple[float, Resolved]]:
        """The same with queues that come and go."""
        return [(at_s, self._state(active)) for at_s, active in self.calendar.changes(from_s, until_s)]

    def largest_max(self, now_s: float) -> Mapping[str, int | None]:
        """For each queue the largest max within a year from then, None where it has none at some time."""
        if self._largest is None or not 0 <= now_s - self._largest[0] < DAY_S:
            largest: dict[str, int | None] = {}
            for queues in self.different_states(now_s):
                for queue in queues:
                    known = largest.get(queue.path, 0)
                    largest[queue.path] = None if known is None or queue.max is None else max(known, queue.max)
            self._largest = now_s, largest
        return self._largest[1]

    def check(self, document: Document, now_s: float) -> None:
        """Raises ConfigError where what is in force together at some time in the next year does not add up."""
        seen: set[Active] = {frozenset()}
        problems: dict[tuple[int | None, str], Problem] = {}
        for at_s, active in self.calendar.changes(now_s, now_s + YEAR_S):
            if active in seen:
                continue
            seen.add(active)
            items, moved = self.calendar.in_force(self._items, active)
            named = ", ".join(str(self.calendar.by_key[key]) for key in sorted(active))
            at = datetime.fromtimestamp(at_s, self.zone)
            try:
                resolve_queues(document, items, moved=moved, when=f" (at {at:%Y-%m-%d %H:%M %Z}, with {named})")
            except ConfigError as error:
                for problem in error.problems:
                    problems.setdefault((problem.line, problem.key), problem)
        if problems:
            raise ConfigError(sorted(problems.values(), key=lambda problem: problem.line or 0))

    def _state(self, active: Active) -> Resolved:
        if active not in self._states:
            items, _ = self.calendar.in_force(self._items, active)
            self._states[active] = resolve_queues(self._document, items, checked=False)
        return self._states[active]


def _with_changes(timeline: Sequence[tuple[float, tuple[Queue, ...]]]) -> tuple[Queue, ...]:
    now = timeline[0][1]
    if len(timeline) == 1:
        return now
    found: list[Queue] = []
    for index, queue in enumerate(now):
        changes = tuple(_changes(timeline, index))
        found.append(replace(queue, changes=changes) if changes else queue)
    return tuple(found)


def _changes(timeline: Sequence[tuple[float, tuple[Queue, ...]]], index: int) -> Iterator[QuotaChange]:
    count = 0
    for (_, before), (at_s, after) in pairwise(timeline):
        queue = after[index]
        if before is after or _numbers(before[index]) == _numbers(queue):
            continue
        yield QuotaChange(
            at_s=at_s,
            guaranteed=queue.guaranteed,
            reserved=queue.reserved,
            max=queue.max,
            lending_limit=queue.lending_limit,
            by_type=queue.by_type,
        )
        count += 1
        if count >= MOST_CHANGES:
            return


def _numbers(queue: Queue) -> tuple[object, ...]:
    return queue.guaranteed, queue.reserved, queue.max, queue.lending_limit, queue.by_type
