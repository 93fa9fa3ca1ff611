"""Figures of one node: loading from memory, and the planner."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from slurmext.staging.plan.fabric import Host, Rack, Replica, Request
from slurmext.staging.plan.multicast import plan_multicast

WARM = """
import sys, time
import {framework}, slurmext.staging.loader as loader
started = time.perf_counter()
weights = loader.load(sys.argv[1], framework='{framework}', roots=sys.argv[2])
first = weights[next(iter(weights))]
float(first.flatten()[0])
print(time.perf_counter() - started)
"""


def warm_ms(reference: str, root: Path, rounds: int) -> dict[str, float]:
    """Milliseconds from a staged model's name to the first tensor's first number, by framework."""
    told: dict[str, float] = {}
    for framework in ("numpy", "torch"):
        program = WARM.replace("{framework}", framework)
        taken = [
            float(
                subprocess.run(
                    [sys.executable, "-c", program, reference, str(root)], check=True, capture_output=True, text=True
                ).stdout
            )
            for _ in range(rounds)
        ]
        told[framework] = statistics.median(taken) * 1000
    return told


def planner_ms(rounds: int) -> float:
    """Milliseconds to plan 140 GB to 1,000 hosts in 32 racks, two of which have it, with unequal loads."""
    rate = 1e11
    hosts = tuple(
        Host(name=f"n{at:04}", tx_bps=rate, rx_bps=rate, rack=f"r{at // 32:02}",
             tx_used_bps=rate * (at * 7 % 5 == 0) / 2, rx_used_bps=rate * (at * 11 % 7 == 0) / 5)
        for at in range(1000)
    )  # fmt: skip
    request = Request(
        size_bytes=140 << 30,
        hosts=hosts,
        racks=tuple(Rack(name=f"r{at:02}", up_bps=16 * rate, down_bps=16 * rate) for at in range(32)),
        replicas=(Replica(host="n0000"), Replica(host="n0500")),
        targets=tuple(host.name for host in hosts),
    )
    taken: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        plan = plan_multicast(request)
        taken.append((time.perf_counter() - started) * 1000)
        assert len(plan.assignments) == 998
    return statistics.median(taken)
