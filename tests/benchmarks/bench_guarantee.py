"""How soon a job within its queue's guarantee runs, whatever the borrowers of its GPUs do.

A real Slurm of four nodes x 8 GPUs is full of borrowers that end at once, save first, ignore signals, exit late, die,
are arrays or gangs, run in srun steps, or end by themselves. Then a job or a gang comes for what its queue is
guaranteed. The grace is 3 s, Slurm's KillWait its default of 30 s. Every situation is random and drawn from a seed, `--seed
N` plays one again. The clock runs from the call of sbatch to the first line of the job's script. Two such clusters work side
by side.

The last line is JSON: situations, late (started more than the grace + 5 s after their submission), start_s_p50,
start_s_p95, start_s_max, over_grace_s_max, broken_laws (of the invariant monitor), not_counted: situations that did not
come about, or in which no set of borrowers may be taken (a gang that needs a GPU on every node cannot have one where
another queue's job is within that queue's guarantee; found by trying out, apart from slurmext's own search).

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from slurmext.devcluster.roots import RELEASES
from slurmext.devcluster.spec import NATIVE
from slurmext.simulate.report import percentile
from slurmext.testing.situations import GRACE_S, KINDS, MIXED, situation
from slurmext.testing.stage import LATE_S, NotPlayed, Played, Stage


@dataclass(slots=True, kw_only=True)
class Session:
    """Situations played on several clusters side by side, each by its own thread."""

    seeds: Iterator[int]
    wanted: int
    logs: Path | None
    tell_all: bool
    release: str
    played: list[Played] = field(default_factory=list[Played])
    left_out: int = 0
    checked: int = 0
    check_ms: float = 0.0
    broken: list[str] = field(default_factory=list[str])
    _lock: Lock = field(default_factory=Lock)

    def run(self, name: str) -> None:
        """Boot a cluster and play until there are enough."""
        with Stage(name, self.release) as stage:
            while (seed := self._next()) is not None:
                try:
                    one = stage.play(situation(seed))
                except NotPlayed as error:
                    self.left_out += 1
                    print(f"{situation(seed)}\n  not counted: {error}", file=sys.stderr, flush=True)
                    continue
                self.played.append(one)
                tell(one, self.logs, always=self.tell_all)
            self._check(stage)

    def _next(self) -> int | None:
        with self._lock:
            if len(self.played) >= self.wanted or self.left_out > self.wanted + 10:
                return None
            return next(self.seeds, None)

    def _check(self, stage: Stage) -> None:
        laws = json.loads(stage.slurmext("daemon", "status", "--json"))["invariants"]
        self.checked += laws["checked"]
        self.check_ms = max(self.check_ms, laws["mean_ms"] or 0.0)
        if laws["broken"]:
            events = json.loads(stage.slurmext("history", "--kind", "invariant", "--json"))
            self.broken += [event["message"] for event in events]
            if self.logs:
                saved = stage.cluster.layout.slurmext_run / "invariants"
                shutil.copytree(saved, self.logs / stage.cluster.spec.name, dirs_exist_ok=True)


def main() -> int:
    """Play, print, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 situations")
    parser.add_argument("--situations", type=int, help="how many [200; quick 10]")
    parser.add_argument("--clusters", type=int, default=2, help="so many side by side [2]")
    parser.add_argument("--seed", type=int, action="append", help="this situation alone; may be given several times")
    parser.add_argument("--first", type=int, default=0, help="the first seed [0]")
    parser.add_argument(
        "--logs", type=Path, help="a folder for what slurmextd said in situations that were late, and of broken laws"
    )
    parser.add_argument("--release", default=NATIVE, choices=[NATIVE, *RELEASES], help="Slurm's [the host's]")
    options = parser.parse_args()
    wanted = len(options.seed) if options.seed else options.situations or (10 if options.quick else 200)
    seeds = iter(options.seed) if options.seed else itertools.count(options.first)
    session = Session(
        seeds=seeds, wanted=wanted, logs=options.logs, tell_all=bool(options.seed), release=options.release
    )
    began = time.monotonic()
    names = [f"bench-g-{os.getpid()}-{number}" for number in range(min(options.clusters, wanted))]
    with ThreadPoolExecutor(len(names)) as pool:
        for done in [pool.submit(session.run, name) for name in names]:
            done.result()
    played = session.played
    if not played:
        print("nothing could be measured", file=sys.stderr)
        return 1
    table(played)
    print(f"\n{len(played)} situations in {time.monotonic() - began:.0f} s; {session.left_out} not counted, mostly because "
          f"no set of borrowers might be taken\ninvariant monitor: {len(session.broken)} broken in {session.checked} "
          f"cycles, {session.check_ms} ms each")  # fmt: skip
    if session.broken:
        print("\n".join(session.broken))
    starts = sorted(one.start_s for one in played)
    figures = {
        "situations": len(played),
        "late": sum(start_s > LATE_S for start_s in starts),
        "start_s_p50": round(percentile(starts, 0.5), 2),
        "start_s_p95": round(percentile(starts, 0.95), 2),
        "start_s_max": round(starts[-1], 2),
        "over_grace_s_max": round(starts[-1] - GRACE_S, 2),
        "not_counted": session.left_out,
        "broken_laws": len(session.broken),
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
