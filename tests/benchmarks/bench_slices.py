"""Slices of GPUs: `python tests/benchmarks/bench_slices.py [--quick] [--only PART] [--traces DIR]`.

- acceptance: MIG requests come and go on 100 H100s; memory units that were placed, of those asked for, by the way of
  choosing places (`accept`: mix -> {ours, first_fit, spread, random}).
- openb: the openb trace packed as in Weng et al. (USENIX ATC'23), 10 seeds: percent of GPUs not allocated when arrived
  requests reach 100 % (`openb_unallocated_pct` as MPS shares, `openb_unallocated_pct_mig` as MIG slices). Random and
  best fit are run as well: they show that the set-up is the paper's. Contains data from the Alibaba openb traces via
  hkust-adsl/kubernetes-scheduler-simulator (Apache-2.0).
- speed: plans of 10,000 GPUs with 10,000 jobs on them, all counted from nothing, and 100 jobs waiting (`plans_per_s`,
  `gpus_per_s`); with none and with 1,000 waiting as well (`idle_plan_ms`, `rush_plan_ms`).
- hooks: what Prolog and Epilog of a slice job take against the simulated driver (`hook_p95_ms_cold`, `..._warm`).

DIR (or SLURMEXT_TRACES, or ../shared/data/traces) has the openb files. The last line is JSON with all of these.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from slices import acceptance, openb, speed

PARTS = ("acceptance", "openb", "speed", "hooks")
Figures = dict[str, object]


class NotMeasured(Exception):
    """Something that is needed is not there."""


def main() -> int:
    """Measure, print, one line of JSON; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer seeds, in under a minute")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone")
    parser.add_argument("--traces", type=Path, help="where the openb files are")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time")
    options = parser.parse_args()
    folder = options.traces or Path(os.environ.get("SLURMEXT_TRACES", "../shared/data/traces"))
    figures: Figures = {}
    failed = False
    with ProcessPoolExecutor(max_workers=options.processes) as pool:
        parts: dict[str, Callable[[], Figures]] = {
            "acceptance": lambda: accept(pool, quick=options.quick),
            "openb": lambda: packed(pool, folder, quick=options.quick),
            "speed": lambda: planned(quick=options.quick),
            "hooks": lambda: hooks(quick=options.quick),
        }
        for name in options.only or PARTS:
            try:
                figures |= parts[name]()
            except NotMeasured as error:
                failed = True
                print(f"{name}: not measured: {error}", file=sys.stderr)
    print(json.dumps(figures | {"quick": options.quick}))
    return 1 if failed else 0


def accept(pool: ProcessPoolExecutor, *, quick: bool) -> Figures:
    """Acceptance of memory units, by mix and way."""
    seeds, count = (3 if quick else 8), (3000 if quick else 6000)
    gpus = acceptance.NODES * acceptance.PER_NODE
    print(f"accepted memory units in percent: {gpus} H100s, {count} requests, mean of {seeds} seeds")
    print(f"{'':<8}" + "".join(f"{way.replace('_', ' '):>11}" for way in acceptance.WAYS))
    runs = {
        (mix, way): [pool.submit(acceptance.accepted, way, mix, seed, count) for seed in range(seeds)]
        for mix in acceptance.MIXES
        for way in acceptance.WAYS
    }
    found: dict[str, dict[str, float]] = {}
    for mix in acceptance.MIXES:
        found[mix] = {way: round(statistics.mean(run.result() for run in runs[mix, way]), 4) for way in acceptance.WAYS}
        print(f"{mix:<8}" + "".join(f"{found[mix][way] * 100:11.2f}" for way in acceptance.WAYS), flush=True)
    return {"accept": found}


def packed(pool: ProcessPoolExecutor, folder: Path, *, quick: bool) -> Figures:
    """GPUs not allocated at 100 % arrivals."""
    missing = [name for name in (openb.NODES, openb.PODS) if not (folder / name).exists()]
    if missing:
        raise NotMeasured(
            f"no {missing[0]} in {folder}. The files are those of data/csv in "
            "https://github.com/hkust-adsl/kubernetes-scheduler-simulator, gzipped. "
            "Name their folder with --traces or SLURMEXT_TRACES"
        )
    seeds = range(42, 43 if quick else 52)
    print(f"\nopenb: percent of 6,212 GPUs not allocated at 100 % arrivals, {len(seeds)} seeds")
    print(f"{'':<28}{'mean':>8}{'min':>8}{'max':>8}{'published':>12}")
    named = {
        "random": "random", "best_fit": "best fit", "ours": "slurmext, MPS shares", "ours_mig": "slurmext, MIG slices",
    }  # fmt: skip
    runs = {way: [pool.submit(openb.unallocated, folder, way, seed) for seed in seeds] for way in named}
    means: dict[str, float] = {}
    for way, label in named.items():
        got = [run.result() for run in runs[way]]
        means[way] = round(statistics.mean(got), 2)
        told = f"{openb.PUBLISHED[way]:12.2f}" if way in openb.PUBLISHED else ""
        print(f"{label:<28}{means[way]:8.2f}{min(got):8.2f}{max(got):8.2f}{told}", flush=True)
    print(f"{'FGD':<28}{'':>24}{openb.PUBLISHED['fgd']:12.2f}")
    return {
        "openb_unallocated_pct": means["ours"],
        "openb_unallocated_pct_mig": means["ours_mig"],
        "openb_random_pct": means["random"],
        "openb_best_fit_pct": means["best_fit"],
    }


def planned(*, quick: bool) -> Figures:
    """How fast plans are made."""
    gpus = 1_000 if quick else 10_000
    figures: Figures = {}
    print(f"\nplanning for {gpus} GPUs, {gpus} jobs on them")
    for waiting, key in ((0, "idle_plan_ms"), (gpus // 100, "plan_ms"), (gpus // 10, "rush_plan_ms")):
        took, made = speed.timed(speed.site(gpus, waiting), 3)
        figures[key] = round(took * 1000, 1)
        print(
            f"{waiting:>6} waiting: {took * 1000:8.1f} ms, {len(made.reserve)} start, {gpus / took:,.0f} GPUs/s",
            flush=True,
        )
        if key == "plan_ms":
            figures |= {"plans_per_s": round(1 / took, 2), "gpus_per_s": round(gpus / took)}
    return figures


def hooks(*, quick: bool) -> Figures:
    """What the hooks of slice jobs take."""
    try:
        from slices.hook_times import hook_times
    except ImportError as error:
        raise NotMeasured(str(error)) from error
    found = hook_times(quick=quick)
    named = {"hook_p95_ms_cold": "slice_cold_ms_p95", "hook_p95_ms_warm": "slice_warm_ms_p95"}
    missing = [key for key in named.values() if key not in found]
    if missing:
        raise NotMeasured(f"no {missing[0]}")
    return {key: found[name] for key, name in named.items()} | found


if __name__ == "__main__":
    sys.exit(main())
