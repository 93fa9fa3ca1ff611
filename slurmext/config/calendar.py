"""When which numbers of the policy are in force: the windows of its calendars, recurring and dated.

Times go in and out as Unix seconds; windows are thought of in the policy's time zone, where `hours: 12` from 08:00 end
at 20:00 whatever daylight saving does in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import cached_property, lru_cache
from itertools import islice, takewhile
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

if TYPE_CHECKING:
    from slurmext.config.policy_document import QueueDocument, WindowDocument
    from slurmext.config.slices import PoolWindowDocument
    from slurmext.config.yaml_errors import Loc

HOUR_S, DAY_S = 3600, 86400
_MOST_STARTS_A_DAY = 24
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CRON_FIELDS = 5
_DST_S = 2 * HOUR_S
"""No daylight saving is larger: so much longer than its hours a window may last."""

Active = frozenset[tuple[str, int]]
"""Windows in force: queue path and position in its calendar."""


@lru_cache(maxsize=1000)
def cron(start: str, zone: tzinfo = UTC) -> CronTrigger:
    """The trigger of a 5-field cron expression, weekdays as cron counts them (0 and 7 are Sunday).

    Raises ValueError with what is wrong and an example.
    """
    example = "write minute, hour, day, month, weekday, for example '0 8 * * mon-fri'"
    fields = start.split()
    if len(fields) != _CRON_FIELDS:
        raise ValueError(f"{start!r} has {len(fields)} fields, not {_CRON_FIELDS}; {example}")
    minute, hour, day, month, weekday = fields
    if day != "*" and weekday != "*":
        raise ValueError(
            f"{start!r} names a day of the month and a weekday, which some read as 'and', some as 'or';"
            " write two windows, or give only one of them"
        )
    try:
        trigger = CronTrigger.from_crontab(" ".join((minute, hour, day, month, _named(weekday))), timezone=zone)
    except (ValueError, LookupError) as error:
        raise ValueError(f"{start!r} is no cron expression ({error}); {example}") from None
    times = fires(trigger, datetime(2027, 1, 1, tzinfo=UTC).timestamp())
    first = next(times, None)
    if first is None:
        raise ValueError(f"{start!r} never comes; {example}")
    soon = takewhile(lambda at_s: at_s < first + DAY_S, times)
    if len(list(islice(soon, _MOST_STARTS_A_DAY))) >= _MOST_STARTS_A_DAY:
        raise ValueError(
            f"{start!r} starts more than {_MOST_STARTS_A_DAY} times a day; write fewer, longer windows:"
            " the minute and hour they begin, and 'hours'"
        )
    return trigger


def _named(weekday: str) -> str:
    """Weekdays by name: APScheduler counts from Monday, cron and everybody who writes one from Sunday."""
    parts: list[str] = []
    for part in weekday.lower().split(","):
        days, slash, step = part.partition("/")
        first, dash, last = days.partition("-")
        numbered = [_WEEKDAYS[int(day)] if day in {*"01234567"} else day for day in (first, last)]
        if slash or (dash and numbered[0] == "sun"):
            parts += _each(first, last if dash else "", step)
        else:
            parts.append(dash.join(filter(None, numbered)))
    return ",".join(parts)


def _each(first: str, last: str, step: str) -> list[str]:
    """`1-5/2`, `*/2`, `0-3`: the days one by one."""
    names = {name: number for number, name in enumerate(_WEEKDAYS[:7])}
    low = 0 if first == "*" else names.get(first, int(first) if first.isdigit() else -1)
    high = 6 if first == "*" or (not last and step) else names.get(last, int(last) if last.isdigit() else -1)
    if low < 0 or high < low or high > len(_WEEKDAYS) - 1 or (step and (not step.isdigit() or step == "0")):
        return [f"{first}-{last}/{step}"]  # not understood: CronTrigger says so
    return [_WEEKDAYS[day] for day in range(low, high + 1, int(step or 1))]


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"{name!r} is no time zone; write an IANA name such as Europe/Berlin or UTC") from None


def fires(trigger: CronTrigger, from_s: float) -> Iterator[float]:
    """Every time from then on."""
    last = from_s - 1
    at = datetime.fromtimestamp(from_s, UTC)
    while (found := trigger.get_next_fire_time(None, at)) is not None:
        fire_s = found.timestamp()
        if fire_s > last:
            yield fire_s
        # Where clocks are set back, the trigger gives an hour that was there before once more.
        last, step_s = max(last, fire_s), 1 if fire_s > last else HOUR_S
        at = max(at + timedelta(seconds=step_s), datetime.fromtimestamp(fire_s + 1, UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One entry of a queue's calendar."""

    path: str
    position: int
    loc: Loc
    document: WindowDocument | PoolWindowDocument
    zone: ZoneInfo

    def spans(self, from_s: float, until_s: float) -> Iterator[tuple[float, float]]:
        """When it is in force between these times: (start, end), in order."""
        if self.document.date is not None:
            first = datetime.combine(self.document.date, time(), self.zone)
            span = first.timestamp(), (first + timedelta(days=self.document.days or 1)).timestamp()
            if span[0] < until_s and span[1] > from_s:
                yield span
            return
        long = timedelta(hours=self.document.hours or 0)
        for start_s in fires(cron(self.document.start or "", self.zone), from_s - long.total_seconds() - _DST_S):
            if start_s >= until_s:
                return
            end = datetime.fromtimestamp(start_s, self.zone) + long
            if end.timestamp() > from_s:
                yield start_s, max(end.timestamp(), start_s)

    @property
    def when(self) -> str:
        """`0 8 * * mon-fri for 12 h`, `2026-12-24`."""
        if self.document.date is None:
            return f"{self.document.start} for {self.document.hours:g} h"
        last = self.document.date + timedelta(days=(self.document.days or 1) - 1)
        return f"{self.document.date}" if last == self.document.date else f"{self.document.date} to {last}"

    def __str__(self) -> str:
        """`prod's calendar[0] (start '0 8 * * mon-fri')`."""
        if self.document.date is not None:
            return f"{self.path}'s calendar[{self.position}] (date {self.document.date})"
        return f"{self.path}'s calendar[{self.position}] (start {self.document.start!r})"


@dataclass(frozen=True)
class Calendar:
    """All windows of a policy, the weaker before the stronger: recurring before dated, earlier before later."""

    windows: tuple[Window, ...]

    @cached_property
    def by_key(self) -> Mapping[tuple[str, int], Window]:
        """Windows by queue path and position."""
        return {(window.path, window.position): window for window in self.windows}

    def changes(self, from_s: float, until_s: float) -> list[tuple[float, Active]]:
        """What is in force at `from_s`, and from when on something else is, up to `until_s`."""
        edges: dict[float, tuple[set[tuple[str, int]], set[tuple[str, int]]]] = {}
        alike: dict[str, list[tuple[float, float]]] = {}  # many queues change at the same hours
        for key, window in self.by_key.items():
            if window.when not in alike:
                alike[window.when] = list(_merged(window.spans(from_s, until_s)))
            for start_s, end_s in alike[window.when]:
                edges.setdefault(max(start_s, from_s), (set(), set()))[0].add(key)
                edges.setdefault(end_s, (set(), set()))[1].add(key)
        active: Active = frozenset()
        found: list[tuple[float, Active]] = [(from_s, active)]
        for at_s in sorted(at_s for at_s in edges if at_s < until_s):
            begins, ends = edges[at_s]
            now = frozenset(active - ends | begins)
            if now == active:
                continue
            active = now
            if at_s == found[-1][0]:
                found[-1] = at_s, active
            else:
                found.append((at_s, active))
        return found

    def in_force(
        self, queues: Mapping[str, QueueDocument], active: Active
    ) -> tuple[dict[str, QueueDocument], dict[Loc, Loc]]:
        """The queues as these windows make them, and for each key they set where the file says so."""
        result, moved = dict(queues), dict[tuple[str | int, ...], tuple[str | int, ...]]()
        for window in self.windows:
            if (window.path, window.position) in active:
                _override(result, window.path.split("/"), window, moved)
        return result, moved


def calendar_of(queues: Mapping[str, QueueDocument], zone: ZoneInfo) -> Calendar:
    """Every window of the tree."""
    found: list[Window] = []

    def visit(items: Mapping[str, QueueDocument], above: str, loc: Loc) -> None:
        for name, item in items.items():
            path = f"{above}/{name}" if above else name
            for position, window in enumerate(item.calendar):
                where = (*loc, name, "calendar", position)
                found.append(Window(path=path, position=position, loc=where, document=window, zone=zone))
            visit(item.children, path, (*loc, name, "children"))

    visit(queues, "", ("queues",))
    return Calendar(tuple(sorted(found, key=lambda window: window.document.date is not None)))


def _merged(spans: Iterator[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The same times without overlaps."""
    last: tuple[float, float] | None = None
    for start_s, end_s in spans:
        if last is None or start_s > last[1]:
            if last is not None:
                yield last
            last = start_s, end_s
        else:
            last = last[0], max(last[1], end_s)
    if last is not None:
        yield last


def _override(queues: dict[str, QueueDocument], parts: list[str], window: Window, moved: dict[Loc, Loc]) -> None:
    name, *below = parts
    item = queues[name]
    if below:
        children = dict(item.children)
        _override(children, below, window, moved)
        queues[name] = item.model_copy(update={"children": children})
        return
    own = window.document
    queue_loc = window.loc[:-2]
    keys = own.model_fields_set & {"guaranteed", "reserved", "max", "lending_limit"}
    update: dict[str, object] = {key: getattr(own, key) for key in keys}
    moved.update({(*queue_loc, key): (*window.loc, key) for key in keys})
    if own.by_type:
        types = dict(item.by_type)
        for gpu_type, quota in own.by_type.items():
            changed = {key: getattr(quota, key) for key in quota.model_fields_set}
            types[gpu_type] = types[gpu_type].model_copy(update=changed) if gpu_type in types else quota
            moved[*queue_loc, "by_type", gpu_type] = (*window.loc, "by_type", gpu_type)
            moved.update(
                {(*queue_loc, "by_type", gpu_type, key): (*window.loc, "by_type", gpu_type, key) for key in changed}
            )
        update["by_type"] = types
    queues[name] = item.model_copy(update=update)
