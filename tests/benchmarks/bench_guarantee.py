"""How soon a job within its queue's guarantee runs, whatever the borrowers of its GPUs do.

A real Slurm of four nodes x 8 GPUs is full of borrowers that end at once, save first, ignore signals, exit late, die,
are arrays or gangs, run in srun steps, or end by themselves. Then a job or a gang comes for what its queue is guaranteed. The
grace is 3 s; Slurm's KillWait, which jobs that ignore TERM make use of, is 5 s. Every situation is random and drawn from
a seed, `--seed N` plays one again. The clock runs from the call of sbatch to the first line of the job's script.

The last line is JSON: situations, late (started more than the grace + 5 s after their submission), start_s_p50,
start_s_p95, start_s_max, over_grace_s_max, broken_laws (of the invariant monitor).

    python tests/benchmarks/bench_guarantee.py               200 situations
    python tests/benchmarks/bench_guarantee.py --quick       10 situations
    python tests/benchmarks/bench_guarantee.py --seed 17     situation 17, with what slurmextd said
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path

from slurmext.simulate.report import percentile
from slurmext.testing.situations import GRACE_S, KINDS, MIXED, situation
from slurmext.testing.stage import LATE_S, NotPlayed, Played, Stage


def main() -> int:
    """Play, print, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 situations")
    parser.add_argument("--situations", type=int, help="how many [200; quick 10]")
    parser.add_argument("--seed", type=int, action="append", help="this situation alone; may be given several times")
    parser.add_argument(
        "--logs", type=Path, help="a folder for what slurmextd said in situations that were late, and of broken laws"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed [0]")
    options = parser.parse_args()
    wanted = len(options.seed) if options.seed else options.situations or (10 if options.quick else 200)
    seeds = iter(options.seed) if options.seed else itertools.count(options.first)
    played: list[Played] = []
    with Stage(f"bench-g-{os.getpid()}") as stage:
        began = time.monotonic()
        for seed in seeds:
            if len(played) == wanted or seed > options.first + 2 * wanted + 10:
                break
            try:
                played.append(stage.play(situation(seed)))
            except NotPlayed as error:
                print(f"{situation(seed)}\n  not counted: {error}", file=sys.stderr, flush=True)
                continue
            tell(played[-1], options.logs, always=bool(options.seed))
        took_s = time.monotonic() - began
        laws = json.loads(stage.slurmext("daemon", "status", "--json"))["invariants"]
        events = stage.slurmext("history", "--kind", "invariant", "--json")
        if options.logs and laws["broken"]:
            saved = stage.cluster.layout.slurmext_run / "invariants"
            shutil.copytree(saved, options.logs / "invariants", dirs_exist_ok=True)
    if not played:
        print("nothing could be measured", file=sys.stderr)
        return 1
    table(played)
    print(f"\n{len(played)} situations in {took_s:.0f} s; invariant monitor: {laws['broken']} broken in "
          f"{laws['checked']} cycles, {laws['mean_ms']} ms each")  # fmt: skip
    if laws["broken"]:
        print("\n".join(line["message"] for line in json.loads(events)))
    starts = sorted(one.start_s for one in played)
    figures = {
        "situations": len(played),
        "late": sum(start_s > LATE_S for start_s in starts),
        "start_s_p50": round(percentile(starts, 0.5), 2),
        "start_s_p95": round(percentile(starts, 0.95), 2),
        "start_s_max": round(starts[-1], 2),
        "over_grace_s_max": round(starts[-1] - GRACE_S, 2),
        "broken_laws": laws["broken"],
    }
    print(json.dumps(figures))
    return 0


def tell(one: Played, folder: Path | None, *, always: bool) -> None:
    """A situation that was late, and where to read what happened in it."""
    if one.start_s > LATE_S or always:
        print(f"{one.start_s:6.2f} s  {one.situation}", file=sys.stderr, flush=True)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{one.situation.seed}.log").write_text(one.log)
        elif always:
            print(one.log, file=sys.stderr)


def table(played: list[Played]) -> None:
    """By kind of borrower."""
    print(f"\nseconds from submission to running, grace {GRACE_S} s; late: more than {LATE_S} s")
    print(f"{'borrowers':<10}{'n':>5}{'p50':>8}{'p95':>8}{'max':>8}{'late':>6}   what they do")
    for kind in [*KINDS, MIXED]:
        starts = sorted(one.start_s for one in played if one.situation.kind == kind)
        if starts:
            late = sum(start_s > LATE_S for start_s in starts)
            about = KINDS[kind].about if kind in KINDS else "any of these"
            print(f"{kind:<10}{len(starts):>5}{percentile(starts, 0.5):>8.2f}{percentile(starts, 0.95):>8.2f}"
                  f"{starts[-1]:>8.2f}{late:>6}   {about}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
