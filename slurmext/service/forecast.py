"""When a waiting job starts at the latest, by the planner's own clock run on from what is known now.

`slurmextd` has better things to do than to look into the future: it lets a process of low priority do it
(`forecast_apart`), one at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from slurmext.config.wire import snapshot_from_json, snapshot_to_json
from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.simulate.resume import NEVER_S, resumed

MOST_PLANS = 2000
LONGEST_S = 2.0
"""So long a forecast may take."""

_APART_S = LONGEST_S + 8.0
"""The same with the time a process takes to start and to read the snapshot."""

MOST_JOBS = 10_000
"""With more jobs one plan takes so long that nothing is seen of the future."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`start_s`: when the job starts at the latest if running jobs use their whole time limit and nobody else comes.

    None: not within what was looked at, which was until `seen_s`; `never` when nothing would happen any more.
    """

    start_s: float | None
    seen_s: float
    never: bool = False


class _Seen(Exception):
    """Enough was seen."""


def forecast(
    snapshot: Snapshot, job_id: str, *, clock: Callable[[], float] = time.monotonic, longest_s: float = LONGEST_S
) -> Forecast:
    """Run the world on until the job starts, for at most `longest_s` seconds of real time."""
    until, plans = clock() + longest_s, 0
    seen_s, start_s = float(snapshot.now_s), None

    def look(then: Snapshot, made: Plan) -> None:
        nonlocal seen_s, start_s, plans
        plans += 1
        if then.now_s - snapshot.now_s >= NEVER_S / 2:
            return
        seen_s = float(then.now_s)
        if any(release.job == job_id for release in made.release):
            start_s = seen_s
            raise _Seen
        if plans >= MOST_PLANS or clock() > until:
            raise _Seen

    try:
        resumed(snapshot, look)
    except _Seen:
        return Forecast(start_s=start_s, seen_s=seen_s)
    return Forecast(start_s=None, seen_s=seen_s, never=True)


_one_at_a_time = threading.Lock()


def forecast_apart(snapshot: Snapshot, job_id: str) -> Forecast | None:
    """The same in a process of its own; None when one is at it already, or it did not work out in time."""
    if len(snapshot.jobs) > MOST_JOBS or not _one_at_a_time.acquire(blocking=False):
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, job_id],
            input=snapshot_to_json(snapshot).encode(),
            capture_output=True,
            timeout=_APART_S,
            check=True,
            cwd="/",
        )
        return Forecast(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None
    finally:
        _one_at_a_time.release()


def main() -> None:
    """A snapshot on standard input, the forecast on standard output."""
    os.nice(10)
    snapshot = snapshot_from_json(sys.stdin.buffer.read())
    json.dump(asdict(forecast(snapshot, sys.argv[1])), sys.stdout)


if __name__ == "__main__":
    main()
