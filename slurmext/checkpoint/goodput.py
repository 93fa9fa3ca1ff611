"""A month of a job that fails, simulated: how much of it is training under one way to choose the interval or another.

Costs drift: they wander between a third and three times what they were in the beginning and jitter from save to save.
A save that a failure interrupts is lost; after a failure the job is back after `restart_s` at its last save.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slurmext.checkpoint.interval import NODE_MTBF_S, Failures, Interval, optimum_s

MONTH_S = 30 * 86400.0
DRIFT_EVERY_S = 1800.0
FIXED_S = (60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """Parts of the month that were training, from 0 to 1, by way of choosing: seconds of a fixed interval, `auto`, and
    `optimum`, which knows the true cost of each save beforehand and the true failure rate.
    """

    auto: float
    optimum: float
    fixed: dict[float, float]

    @property
    def gap(self) -> float:
        """What `auto` loses against the optimum, as a part of the optimum."""
        return (self.optimum - self.auto) / self.optimum


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What happens in a month, the same for everybody: when the job fails, and what saving costs."""

    mtbf_s: float
    failures: tuple[float, ...]
    costs: tuple[float, ...]
    jitter: tuple[float, ...]
    restart_s: float
    length_s: float

    def cost_s(self, at_s: float) -> float:
        """What a save costs on average then."""
        return self.costs[min(int(at_s / DRIFT_EVERY_S), len(self.costs) - 1)]


def world(*, seed: int, mtbf_s: float, cost_s: float, restart_s: float, length_s: float) -> World:
    """A month drawn from `seed`."""
    draw = random.Random(seed)  # noqa: S311 - a simulation
    failures, at_s = list[float](), 0.0
    while (at_s := at_s + draw.expovariate(1 / mtbf_s)) < length_s:
        failures.append(at_s)
    costs, log = list[float](), 0.0
    for _ in range(int(length_s / DRIFT_EVERY_S) + 1):
        log = min(max(log + draw.gauss(0, 0.05), -math.log(3)), math.log(3))
        costs.append(cost_s * math.exp(log))
    jitter = tuple(draw.lognormvariate(0, 0.2) for _ in range(997))
    return World(
        mtbf_s=mtbf_s,
        failures=tuple(failures),
        costs=tuple(costs),
        jitter=jitter,
        restart_s=restart_s,
        length_s=length_s,
    )


def trained_s(
    given: World,
    every_s: Callable[[float], float],
    *,
    saved: Callable[[float, float], None] = lambda _cost_s, _every_s: None,
    failed: Callable[[float], None] = lambda _ran_s: None,
) -> float:
    """Seconds of training that were kept. `every_s(at)` chooses; `saved` and `failed` tell it what it cost."""
    at_s = kept_s = 0.0
    saves = 0
    upcoming = iter((*given.failures, given.length_s))
    end_s, began_s = next(upcoming), 0.0
    while at_s < given.length_s:
        work_s = every_s(at_s)
        cost_s = given.cost_s(at_s) * given.jitter[saves % len(given.jitter)]
        if at_s + work_s + cost_s <= end_s:
            at_s += work_s + cost_s
            kept_s += work_s
            saves += 1
            saved(cost_s, work_s)
            continue
        if end_s >= given.length_s:
            return kept_s + max(0.0, min(work_s, end_s - at_s))  # the month is over, not the job
        failed(end_s - began_s)
        at_s = began_s = end_s + given.restart_s
        while end_s < at_s:
            end_s = next(upcoming, given.length_s)
            if end_s >= given.length_s:
                break
    return kept_s


def goodput(
    *,
    mtbf_s: float = 3 * 3600.0,
    cost_s: float = 5.0,
    restart_s: float = 120.0,
    length_s: float = MONTH_S,
    fixed_s: Sequence[float] = FIXED_S,
    mistaken: float = 3.0,
    stretch: float = 1.0,
    seeds: Sequence[int] = range(8),
) -> Goodput:
    """Means over months. `auto` begins with a failure rate that is wrong by the factor `mistaken`, no cost measured.

    `stretch`: its intervals are so many times as long as it chooses, to see what choosing wrongly costs.
    """
    sums = {"auto": 0.0, "optimum": 0.0, **{str(every): 0.0 for every in fixed_s}}
    for seed in seeds:
        month = world(seed=seed, mtbf_s=mtbf_s, cost_s=cost_s, restart_s=restart_s, length_s=length_s)
        nodes = max(1, round(NODE_MTBF_S / (mtbf_s * mistaken)))
        own = Interval(nodes=nodes, failures=Failures())

        def after(ran_s: float, own: Interval = own) -> None:
            own.ran(ran_s)
            own.failed()

        def choose(_at_s: float, own: Interval = own) -> float:
            return own.every_s * stretch

        def learn(cost_s: float, _every_s: float, own: Interval = own) -> None:
            own.cost(cost_s)

        sums["auto"] += trained_s(month, choose, saved=learn, failed=after)
        sums["optimum"] += trained_s(month, lambda at, month=month: optimum_s(month.cost_s(at), month.mtbf_s))
        for every in fixed_s:
            sums[str(every)] += trained_s(month, lambda _at, every=every: every)
    whole_s = length_s * len(seeds)
    return Goodput(
        auto=sums["auto"] / whole_s,
        optimum=sums["optimum"] / whole_s,
        fixed={every: sums[str(every)] / whole_s for every in fixed_s},
    )
