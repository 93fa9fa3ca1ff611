"""Training time lost by one checkpoint, while a loop keeps every core busy.

As many steps with and without it, one after the other; the ways in turns, ours and DCP's process mode in each round.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from pathlib import Path

from ckpt.idle import both
from ckpt.state import State, Training
from ckpt.ways import WAYS, DcpProcess, Ours, Way, timed

COMPARED = (Ours, DcpProcess)
OTHERS_IN = 2
"""Rounds in which the other ways take part."""
LIMIT_S = 90.0
"""On a slow machine rounds are left out."""


def measure(place: Path, state: State, rounds: int) -> dict[str, float]:
    """The figures; prints the table."""
    training = Training(state)
    ways = [kind(place / f"training-{kind.__name__}", state) for kind in WAYS]
    step_s = timed(lambda: [training.step() for _ in range(20)]) / 20
    for way in ways:  # warm up
        way.next()
        way.save()
        way.finish()
        way.settle()
    figures: dict[type[Way], list[tuple[float, float, float]]] = defaultdict(list)
    end_s = time.monotonic() + LIMIT_S
    for number in range(rounds):
        for way in ways:
            if number == 0 or (time.monotonic() < end_s and (isinstance(way, COMPARED) or number < OTHERS_IN)):
                way.next()
                figures[type(way)].append(one(training, way, step_s))
    for way in ways:
        way.close()
    print(f"\n{'under training, seconds':<28}{'stall':>16}{'durable':>16}{'lost':>16}   median (least) of "
          f"{len(figures[Ours])} rounds, step {step_s:.3f}")  # fmt: skip
    for kind in WAYS:
        print(f"{kind.name:<28}" + "".join(both(values) for values in zip(*figures[kind], strict=True)))
    lost = {kind: [values[2] for values in figures[kind]] for kind in COMPARED}
    return {
        "lost_s": round(statistics.median(lost[Ours]), 3),
        "lost_over_dcp_process": round(statistics.median(lost[Ours]) / statistics.median(lost[DcpProcess]), 3),
    }


def one(training: Training, way: Way, step_s: float) -> tuple[float, float, float]:
    """(stall, durable, seconds of training lost) by a save; training goes on until nothing of it is left."""
    steps = 0
    started = time.perf_counter()
    way.save()
    stall = time.perf_counter() - started
    durable: list[float] = []

    def watch() -> None:
        way.finish()
        durable.append(time.perf_counter() - started)
        way.settle()

    watcher = threading.Thread(target=watch)
    watcher.start()
    while watcher.is_alive() or steps < 1 / step_s:
        training.step()
        steps += 1
    took = time.perf_counter() - started
    return stall, durable[0], took - timed(lambda: [training.step() for _ in range(steps)])
