"""Calendars of the policy file: when which numbers are in force, and that the tree adds up at any time."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from slurmext.config.calendar import cron
from slurmext.config.policy import SitePolicy, parse_policy
from slurmext.config.submit_table import NameService, queues_tsv
from slurmext.config.yaml_errors import ConfigError
from slurmext.model.queue import PreDrain

NOBODY = NameService(members=lambda _: (), gid=lambda _: None, all_gids=dict)
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


NOW_S = at("2026-11-21 12:00")  # a Saturday


def policy(text: str, zone: str = "Europe/Berlin") -> SitePolicy:
    return parse_policy(f"version: 1\nsettings: {{timezone: {zone}}}\nqueues:\n{text}", "p.yaml", now_s=NOW_S)


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        policy(text)
    return str(caught.value)


DAY_AND_NIGHT = """
  prod:
    guaranteed: 10
    max: 100
    calendar:
      - {start: "0 8 * * 1-5", hours: 12, guaranteed: 60}
      - {date: 2026-12-24, days: 3, guaranteed: 5, max: 20}
  research:
    guaranteed: 90
    max: 90
    calendar:
      - {start: "0 8 * * mon-fri", hours: 12, guaranteed: 40, max: 60}
    children:
      nlp: {guaranteed: 50%}
"""


def guaranteed(found: SitePolicy, when: str) -> dict[str, int]:
    return {path: found.at(at(when)).guaranteed(path) for path in ("prod", "research", "research/nlp")}


@pytest.mark.parametrize(
    ("when", "prod", "research"),
    [
        ("2026-11-23 07:59:59", 10, 90),
        ("2026-11-23 08:00", 60, 40),
        ("2026-11-23 19:59:59", 60, 40),
        ("2026-11-23 20:00", 10, 90),
        ("2026-11-22 12:00", 10, 90),
        ("2026-11-27 12:00", 60, 40),
        ("2026-12-24 12:00", 5, 40),
        ("2026-12-26 23:59", 5, 90),
        ("2026-12-27 00:00", 10, 90),
    ],
)
def test_numbers_follow_the_calendar(when: str, prod: int, research: int) -> None:
    """Weekdays by day, nights and weekends otherwise; a dated window beats a recurring one; shares follow."""
    found = policy(DAY_AND_NIGHT)
    assert guaranteed(found, when) == {"prod": prod, "research": research, "research/nlp": research // 2}


def test_what_a_window_does_not_name_stays() -> None:
    """Outside of its keys the queue's own numbers count, and those of a weaker window."""
    queue = {queue.path: queue for queue in policy(DAY_AND_NIGHT).queues_at(at("2026-12-24 12:00"))}
    assert (queue["prod"].guaranteed, queue["prod"].max) == (5, 20)
    assert (queue["research"].guaranteed, queue["research"].max, queue["research"].weight) == (40, 60, 1)


def test_queues_know_their_next_changes() -> None:
    """The soonest first, all numbers of the queue, also of one whose share of a parent changes; at most 20."""
    found = {queue.path: queue for queue in policy(DAY_AND_NIGHT).queues_at(NOW_S)}
    monday, evening = at("2026-11-23 08:00"), at("2026-11-23 20:00")
    assert [(c.at_s, c.guaranteed, c.max) for c in found["prod"].changes[:2]] == [(monday, 60, 100), (evening, 10, 100)]
    assert [(c.at_s, c.guaranteed) for c in found["research/nlp"].changes[:2]] == [(monday, 20), (evening, 45)]
    assert len(found["prod"].changes) == 20


def test_what_was_worked_out_is_kept_until_the_next_change() -> None:
    """The same objects between two changes, others after: whoever compares queues by identity may do so."""
    found = policy(DAY_AND_NIGHT)
    before = found.queues_at(NOW_S)
    assert found.queues_at(NOW_S + 3600) is before
    assert found.queues_at(at("2026-11-23 08:00")) is not before


def test_a_queue_without_calendar_has_no_changes() -> None:
    """Most queues have none, and cost nothing."""
    found = policy("  a: {guaranteed: 1}\n")
    assert found.queues_at(NOW_S) is found.queues


def test_daylight_saving_does_not_move_the_end() -> None:
    """12 hours from 20:00 end at 08:00, in the night in which clocks change as well."""
    found = policy('  a: {guaranteed: 1, calendar: [{start: "0 20 * * *", hours: 12, guaranteed: 2}]}\n')
    for day in ("2027-03-28", "2027-10-31"):
        assert found.at(at(f"{day} 07:59")).guaranteed("a") == 2
        assert found.at(at(f"{day} 08:00")).guaranteed("a") == 1


def test_an_hour_that_comes_twice_is_counted_through() -> None:
    """A window that starts in the hour that is there twice neither hangs nor starts the calendar over."""
    found = policy('  a: {guaranteed: 1, calendar: [{start: "30 2 * * *", hours: 1, guaranteed: 2}]}\n')
    times = [change.at_s for change in found.at(at("2027-10-30 12:00")).queues[0].changes]
    assert times == sorted(set(times))
    assert len(times) == 20


def test_later_windows_beat_earlier_ones() -> None:
    """Of two recurring windows at the same time the later in the list counts."""
    windows = '[{start: "0 0 * * *", hours: 24, guaranteed: 2}, {start: "0 6 * * *", hours: 2, guaranteed: 3}]'
    found = policy(f"  a: {{guaranteed: 1, calendar: {windows}}}\n")
    assert [found.at(at(f"2026-11-25 0{hour}:00")).guaranteed("a") for hour in (5, 7, 9)] == [2, 3, 2]


def test_types_and_null_can_be_set() -> None:
    """A window sets numbers of single types, and `null` takes a limit away."""
    found = policy(
        "  a: {guaranteed: 4, max: 8, by_type: {h100: {guaranteed: 2, max: 4}},"
        " calendar: [{date: 2026-11-22, max: null, by_type: {h100: {max: 6}}}]}\n"
    )
    queue = found.queues_at(at("2026-11-22 12:00"))[0]
    assert queue.max is None
    assert (queue.by_type["h100"].guaranteed, queue.by_type["h100"].max) == (2, 6)


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("1-5", "Mon Tue Wed Thu Fri"), ("mon-fri", "Mon Tue Wed Thu Fri"), ("0", "Sun"), ("7", "Sun"), ("6,0", "Sat Sun"),
        ("*", "Mon Tue Wed Thu Fri Sat Sun"), ("5-7", "Fri Sat Sun"), ("0-2", "Mon Tue Sun"), ("1-5/2", "Mon Wed Fri"),
        ("*/3", "Wed Sat Sun"), ("SUN", "Sun"),
    ],
)  # fmt: skip
def test_weekdays_count_as_in_cron(weekday: str, days: str) -> None:
    """0 and 7 are Sunday, 1 is Monday."""
    trigger = cron(f"0 8 * * {weekday}")
    week = [datetime(2026, 11, day, tzinfo=ZoneInfo("UTC")) for day in range(23, 30)]
    fires = [day for day in week if (found := trigger.get_next_fire_time(None, day)) and found.date() == day.date()]
    assert " ".join(day.strftime("%a") for day in fires) == days


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ('{start: "0 8 * *", hours: 1, max: 9}', "p.yaml:4: queues.a.calendar[0].start: '0 8 * *' has 4 fields"),
        ('{start: "0 25 * * *", hours: 1, max: 9}', "no cron expression"),
        ('{start: "0 8 31 2 *", hours: 1, max: 9}', "never comes"),
        ('{start: "0 8 1 * mon", hours: 1, max: 9}', "write two windows"),
        ('{start: "* * * * *", hours: 1, max: 9}', "more than 24 times a day"),
        ('{start: "0 8 * * *", max: 9}', "needs 'hours' beside start"),
        ("{date: 2026-12-24}", "changes nothing"),
        ("{max: 9}", "needs either start"),
        ('{start: "0 8 * * *", hours: 1, date: 2026-12-24, max: 9}', "not both"),
        ("{date: 2026-12-24, hours: 3, max: 9}", "'hours' goes with start"),
        ("{date: 2026-12-24, weight: 3}", "unknown key"),
        ("{date: 2026-13-24, max: 9}", "p.yaml:4: queues.a.calendar[0].date"),
    ],
)
def test_a_wrong_window_is_named_with_its_remedy(window: str, words: str) -> None:
    """File, line, key, and what to write instead."""
    assert words in problems(f"  a: {{guaranteed: 1, calendar: [{window}]}}\n")


def test_a_wrong_time_zone_is_named() -> None:
    """By its IANA name only."""
    with pytest.raises(ConfigError, match=r"p.yaml:2: settings.timezone: 'CEST' is no time zone; write an IANA name"):
        policy("  a: {}\n", zone="CEST")


def test_the_tree_must_add_up_at_every_time() -> None:
    """The error names the window, the time, the parent and the child."""
    text = """
  org:
    guaranteed: 20
    calendar:
      - {start: "0 8 * * mon-fri", hours: 12, guaranteed: 10}
    children:
      x: {guaranteed: 10}
      y:
        guaranteed: 0
        calendar:
          - {start: "0 10 * * sun", hours: 2, guaranteed: 8}
          - {start: "0 10 * * fri", hours: 2, guaranteed: 8}
"""
    [line] = problems(text).splitlines()
    assert line.startswith(
        "p.yaml:15: queues.org.children.y.calendar[1].guaranteed: the children of org guarantee 18 GPUs"
    )
    assert "org's own 10 (line 8)" in line
    assert "2026-11-27 10:00 CET" in line
    assert "org's calendar[0] (start '0 8 * * mon-fri')" in line
    assert "org/y's calendar[1] (start '0 10 * * fri')" in line


def test_a_window_that_breaks_the_order_of_its_own_numbers() -> None:
    """`reserved <= guaranteed <= max` at any time."""
    said = problems("  a: {guaranteed: 4, max: 8, calendar: [{date: 2026-12-24, max: 2}]}\n")
    assert "p.yaml:4: queues.a.calendar[0].max: 2 is below guaranteed 4" in said


def test_windows_beyond_a_year_are_not_looked_at() -> None:
    """What is in force in the year to come must add up; later entries are checked when a policy is applied then."""
    policy("  a: {guaranteed: 4, max: 8, calendar: [{date: 2028-12-24, max: 2}]}\n")


def test_submission_is_refused_by_the_largest_max_of_the_calendar() -> None:
    """A job that fits only at night may be submitted by day."""
    found = policy(DAY_AND_NIGHT)
    rows = [line.split("\t") for line in queues_tsv(found, NameService(members=lambda _: ()), now_s=NOW_S).splitlines()]
    assert {row[0]: row[2] for row in rows if not row[0].startswith("#")} == {
        "prod": "100", "research": "90", "research/nlp": "90",
    }  # fmt: skip
    assert found.at(at("2026-11-23 12:00")).effective_max("research/nlp") == 60


def test_pre_drain_is_inherited() -> None:
    """A queue does as its parent does; at the top borrowers that cannot end in time are refused."""
    found = policy("  a: {pre_drain: tell, children: {b: {}, c: {pre_drain: refuse}}}\n  d: {}\n")
    assert [queue.pre_drain for queue in found.queues] == [
        PreDrain.TELL, PreDrain.TELL, PreDrain.REFUSE, PreDrain.REFUSE,
    ]  # fmt: skip


def test_the_largest_guarantee_of_the_year_is_known() -> None:
    """What doctor compares with the cluster: 60 + 40 by day, 10 + 90 by night, 5 + 90 on a holiday."""
    assert policy(DAY_AND_NIGHT).largest_guarantee(NOW_S) == 100
