"""Which size would have done, what is fragmented, and the policy's section."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.config.policy import parse_policy
from slurmext.config.yaml_errors import ConfigError
from slurmext.model.slice_state import SliceRecord, SliceSample, SliceState
from slurmext.model.slicing import GpuUse, Instance, InstanceState, Share, SliceNeed
from slurmext.model.state import JobKey
from slurmext.policy.slicing.fragmentation import fragmentation
from slurmext.service.slices.advice import advise
from slurmext.service.slices.grow import grown
from slurmext.testing.slicing import gpus

KEY = JobKey(job_id="7", submit_s=1)
CARDS = gpus("n1", "h100", 2)
RECORD = SliceRecord(
    reservation="r", job=KEY, user="alice", node="n1", gpu="n1-0", gpu_type="h100", profile="3g.40gb", start=0,
    memory_mib=40448, state=SliceState.FREED, live_s=1,
)  # fmt: skip
SHARE = replace(RECORD, profile=None, start=None, share_pct=50, memory_mib=20480)


def sample(**values: object) -> SliceSample:
    given = {"memory_mib": 40448, "samples": 10, "at_s": 5.0, **values}
    return SliceSample(job=KEY, node="n1", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "measured", "options", "why"),
    [
        (RECORD, {"memory_peak_mib": 8000, "sm_mean_pct": 10.0}, "--gpu-slice=1g.10gb", "10 % of its SMs"),
        (RECORD, {"memory_peak_mib": 9800, "sm_mean_pct": 10.0}, "--gpu-slice=1g.20gb", "it used 9800"),
        (RECORD, {"memory_peak_mib": 30000, "sm_mean_pct": 60.0}, "", "it fits"),
        (RECORD, {"memory_peak_mib": 8000, "sm_mean_pct": 97.0}, "", "4g.40gb would probably be faster"),
        (RECORD, {"memory_peak_mib": 4}, "--gpu-slice=1g.10gb", "SM use was not measured, and 1g.10gb has 16 SMs, 3g"),
        (RECORD, {"memory_peak_mib": 30000}, "", "it used 30000 of 40448 MiB: it fits"),
        (RECORD, {"memory_peak_mib": 40400}, "--gpu-slice=7g.80gb", "its GPU memory was used up"),
        (RECORD, {"memory_peak_mib": 8000, "oom": True}, "--gpu-slice=7g.80gb", "its GPU memory was used up"),
        (RECORD, {"memory_peak_mib": 8000, "samples": 1}, "", "too little was measured"),
        (SHARE, {"memory_mib": 20480, "memory_peak_mib": 4000}, "--gpu-share=50%,mem=4608M", "it used 4000"),
        (SHARE, {"memory_mib": 20480, "memory_peak_mib": 20480}, "--gpu-share=50%,mem=40960M", "used up"),
    ],
)
def test_advice_is_the_smallest_size_that_would_have_done(record, measured, options: str, why: str) -> None:
    """From peak memory with a margin and from mean SM use; nothing is said on too little."""
    advice = advise([record], [sample(**measured)], CARDS)
    assert advice is not None
    assert advice.options == options
    assert why in advice.why


def test_nothing_measured_is_no_advice() -> None:
    """A job whose agent never measured anything."""
    assert advise([RECORD], [], CARDS) is None
    assert advise([], [sample()], CARDS) is None


def test_the_next_size_is_the_least_that_is_larger() -> None:
    """Plain profiles only, up to the whole card; shares double."""
    need = SliceNeed(profile="1g.10gb", per_node=2)
    sizes = []
    record = replace(RECORD, profile="1g.10gb")
    for _ in range(4):
        grew = grown(need, record, CARDS)
        assert grew.per_node == 2
        sizes.append(grew.profile)
        record = replace(record, profile=grew.profile)
    assert sizes == ["1g.20gb", "3g.40gb", "7g.80gb", "7g.80gb"]
    share = grown(SliceNeed(share_pct=50, memory_mib=20480), SHARE, CARDS)
    assert (share.share_pct, share.memory_mib) == (50, 40960)


def busy(profile: str, start: int, state: InstanceState = InstanceState.BUSY) -> Instance:
    return Instance(profile=profile, start=start, state=state, job="1")


def test_fragmentation_counts_what_does_not_fit_although_enough_is_free() -> None:
    """Two halves of two cards are worth less than one whole card; warm instances are free."""
    one, other = CARDS
    whole = fragmentation([one, replace(other, instances=(busy("7g.80gb", 0),))])
    assert whole.percent == 0
    halves = fragmentation([replace(card, instances=(busy("3g.40gb", 0),)) for card in CARDS])
    assert halves.percent > 5
    assert {fit.profile: (fit.fits, fit.joined) for fit in halves.fits}["7g.80gb"] == (0, 1)
    warm = fragmentation([replace(one, instances=(busy("1g.10gb", 3, InstanceState.WARM),))])
    assert (warm.percent, warm.free_milli) == (0, 1000)
    shared = replace(one, use=GpuUse.SHARED, shares=(Share(job="1", percent=25, memory_mib=10240),))
    assert fragmentation([shared]).free_milli == 750
    assert fragmentation([replace(one, use=GpuUse.WHOLE)]).gpus == 0


HEAD = "version: 1\nqueues: {a: {}}\n"


def test_pools_follow_their_calendar() -> None:
    """By night and on dated days other numbers are in force, in the policy's time zone."""
    text = HEAD + (
        "settings: {timezone: Europe/Berlin}\n"
        "slices:\n  oom_retry: true\n  pools:\n"
        "    h100: {min: 2, max: 8, calendar: [{start: '0 20 * * *', hours: 10, min: 0, max: 1},"
        " {date: 2026-12-24, max: null}]}\n    any: {max: 0, use: shared}\n"
    )
    policy = parse_policy(text)
    noon, night, holiday = 1795345200.0, 1795378000.0, 1798113600.0  # 2026-11-22 12:00 and 21:06, 2026-12-24 13:00
    by_day = {pool.gpu_type: pool for pool in policy.slices_at(noon).pools}
    assert (by_day["h100"].minimum, by_day["h100"].maximum) == (2, 8)
    assert (by_day[None].maximum, by_day[None].use) == (0, GpuUse.SHARED)
    (by_night,) = [pool for pool in policy.slices_at(night).pools if pool.gpu_type]
    assert (by_night.minimum, by_night.maximum) == (0, 1)
    (that_day,) = [pool for pool in policy.slices_at(holiday).pools if pool.gpu_type]
    assert (that_day.minimum, that_day.maximum) == (2, None)
    assert policy.as_model(1).slice_oom_retry


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("pools: {h100: {min: 9, max: 8}}", "min (9) is more than max (8)"),
        ("pools: {h100: {calendar: [{start: '0 20 * * *', max: 1}]}}", "start and hours go together"),
        ("pools: {h100: {calendar: [{start: '0 20 * * *', hours: 2}]}}", "changes nothing"),
        ("pools: {h100: {calendar: [{start: 'at night', hours: 2, max: 1}]}}", "2 fields, not 5"),
        ("pools: {h100: {use: whole}}", "slices.pools.h100.use"),
        ("pool: {}", "slices.pool"),
        ("empty_for_s: -1", "slices.empty_for_s"),
    ],
)
def test_mistakes_in_the_section_are_told_where_they_stand(section: str, said: str) -> None:
    """Key, rule and remedy."""
    with pytest.raises(ConfigError) as raised:
        parse_policy(f"{HEAD}slices: {{{section}}}\n")
    assert said in str(raised.value)
