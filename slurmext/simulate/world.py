"""What a trace does not say about the world it ran in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from slurmext.errors import UsageError

_HOUR_S, _DAY_S = 3600.0, 86400.0

Failure = tuple[float, str, float]
"""When a node fails (seconds), its name, and for how many seconds it is out of use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the trace does not say. All in seconds.

    A victim that `saves` on its signal leaves after `save_s` and loses nothing but `restart_s` when it starts again;
    one that does not leaves at once and goes back to its last periodic checkpoint (`checkpoint_every_s`, None: none).
    `requeue_delay_s` is how long a victim cannot start again. A failed node (`failures`) kills its jobs, which are
    requeued. While jobs wait there are at least `tick_s` between two plans, unless a victim has left.
    """

    saves: bool = True
    save_s: float = 20
    restart_s: float = 30
    checkpoint_every_s: float | None = 3600
    tick_s: float = 0
    requeue_delay_s: float = 0
    failures: tuple[Failure, ...] = ()


def failure(text: str, nodes: Sequence[str]) -> Failure:
    """`n3@12+4`: node n3 fails 12 hours after the start and is out of use for 4. Raises UsageError."""
    name, _, times = text.rpartition("@")
    at, _, out = times.partition("+")
    try:
        found = (float(at) * _HOUR_S, name, float(out) * _HOUR_S)
    except ValueError:
        found = (-1.0, name, -1.0)
    if not name or not 0 <= found[0] < float("inf") or not 0 < found[2] < float("inf"):
        example = f"{nodes[0] if nodes else 'n1'}@12+4"
        raise UsageError(f"{text!r} is no failure; give NODE@HOURS+HOURS, for example {example}")
    if name not in set(nodes):
        raise UsageError(f"there is no node {name!r} to fail; the first is {nodes[0] if nodes else 'missing'}")
    return found


def random_failures(
    nodes: Sequence[str], *, days_between: float, out_s: float, until_s: float, seed: int
) -> tuple[Failure, ...]:
    """Each node fails every `days_between` days on average, at random until `until_s`; the same seed, the same ones."""
    draw = random.Random(seed)  # noqa: S311  no secret: a replay must be repeatable
    found: list[Failure] = []
    for node in nodes:
        at_s = draw.expovariate(1 / (days_between * _DAY_S))
        while at_s < until_s:
            found.append((at_s, node, out_s))
            at_s += out_s + draw.expovariate(1 / (days_between * _DAY_S))
    return tuple(sorted(found))
