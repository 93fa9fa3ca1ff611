"""Many small jobs on parts of GPUs, and a judge who only believes the jobs' own words and the driver."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from slurmext.devcluster import Devcluster
    from slurmext.testing.nvml import SimulatedSlice

_SCRIPT = """#!/bin/sh
# One line when a task starts, one when it ends: job, task, node, slice, pipe of its share, percent, time.
say() { echo "$1 $SLURM_JOB_ID ${SLURM_PROCID:-0} $SLURMD_NODENAME ${CUDA_VISIBLE_DEVICES:--}" \\
  "${CUDA_MPS_PIPE_DIRECTORY:--} ${CUDA_MPS_ACTIVE_THREAD_PERCENTAGE:--} $(date +%s.%N)" >> "$2"; }
say begin "$1"
sleep "$2"
say end "$1"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A job of the storm: sbatch options, and what it must get, a `profile` or `percent` of a share (both: either)."""

    options: tuple[str, ...]
    profile: str = ""
    percent: int = 0
    tasks: int = 1
    nodes: int = 1
    user: str = "nobody"
    seconds: float = 1.0

    @property
    def mig(self) -> bool:
        """Whether it wants MIG instances."""
        return bool(self.profile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a task said of itself. `pipe` and `percent` are "-" outside shares; `at_s` is Unix seconds."""

    what: str
    job: str
    task: int
    node: str
    visible: str
    pipe: str
    percent: str
    at_s: float


@dataclass(slots=True)
class Verdict:
    """What was found wrong, by kind; all zero is good. `runs` counts jobs that ran to their end."""

    runs: int = 0
    illegal: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing wrong."""
        return not (self.illegal or self.misplaced or self.leftover or self.drained or self.lost)

    def __str__(self) -> str:
        """`200 jobs: 0 illegal, 0 misplaced, 0 leftover, 0 drained, 0 lost`."""
        counts = ", ".join(
            f"{len(getattr(self, name))} {name}" for name in ("illegal", "misplaced", "leftover", "drained", "lost")
        )
        return f"{self.runs} jobs: {counts}"

    @property
    def first(self) -> list[str]:
        """The first of each kind, for whoever looks for the cause."""
        kinds = (self.illegal, self.misplaced, self.leftover, self.drained, self.lost)
        return [each[0] for each in kinds if each]


def mixed(
    mig: int, shares: int, *, seed: int, users: Sequence[str] = ("nobody",), longest_s: float = 2.0
) -> list[Wish]:
    """So many jobs of every kind for H100 cards, in random order."""
    draw = random.Random(seed)  # noqa: S311
    kinds: list[tuple[int, Wish]] = [
        (8, Wish(options=("--gpu-slice=1g.10gb",), profile="1g.10gb")),
        (3, Wish(options=("--gpu-slice=1g.20gb",), profile="1g.20gb")),
        (3, Wish(options=("--gpu-slice=2g.20gb",), profile="2g.20gb")),
        (2, Wish(options=("--gpu-slice=3g.40gb",), profile="3g.40gb")),
        (1, Wish(options=("--gpu-slice=7g.80gb",), profile="7g.80gb")),
        (2, Wish(options=("--gpu-slice=1g.10gb", "--ntasks=2", "--nodes=1"), profile="1g.10gb", tasks=2)),
        (2, Wish(options=("--gpu-slice=1g.10gb", "--nodes=2"), profile="1g.10gb", tasks=2, nodes=2)),
        (2, Wish(options=("--gpu-mem=18G", "--gpu-compute=15%"), profile="1g.20gb", percent=15)),
    ]
    weights = [weight for weight, _ in kinds]
    chosen = [draw.choices([kind for _, kind in kinds], weights)[0] for _ in range(mig)]
    for _ in range(shares):
        percent = draw.choice((10, 20, 25, 30, 50))
        memory = draw.choice((4, 8, 10))
        chosen.append(Wish(options=(f"--gpu-share={percent}%,mem={memory}G",), percent=percent))
    draw.shuffle(chosen)
    return [
        Wish(
            options=wish.options, profile=wish.profile, percent=wish.percent, tasks=wish.tasks, nodes=wish.nodes,
            user=users[number % len(users)], seconds=round(draw.uniform(0.5, longest_s), 1),
        )
        for number, wish in enumerate(chosen)
    ]  # fmt: skip


class Storm:
    """The jobs on a devcluster. As a context manager it watches the simulated drivers meanwhile."""

    def __init__(self, cluster: Devcluster, wishes: Sequence[Wish]) -> None:
        self._cluster, self._wishes = cluster, wishes
        self._folder = cluster.dir / "storm"
        self._folder.mkdir(exist_ok=True)
        self._lines = self._folder / "lines"
        self._lines.touch()
        self._lines.chmod(0o666)
        self._script = self._folder / "job.sh"
        self._script.write_text(_SCRIPT)
        self._script.chmod(0o755)
        self.jobs: dict[str, Wish] = {}
        self._seen: dict[str, tuple[str, SimulatedSlice]] = {}
        self._clashes: set[str] = set()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._watcher.join()

    def submit(self) -> None:
        """All jobs, with one shell for each user."""
        for user in sorted({wish.user for wish in self._wishes}):
            mine = [wish for wish in self._wishes if wish.user == user]
            calls = "\n".join(self._call(wish) for wish in mine)
            ids = self._cluster.run(["sh", "-e"], user=user, stdin=calls, timeout_s=120).stdout.split()
            self.jobs |= dict(zip(ids, mine, strict=True))

    def _call(self, wish: Wish) -> str:
        run = f"{self._script} {self._lines} {wish.seconds}"
        if wish.tasks > 1:
            run = f"srun --mpi=none --mem=0 {run}"
        return f"sbatch --parsable --mem=10 --output=/dev/null {' '.join(wish.options)} --wrap '{run}'"

    def ended(self) -> int:
        """How many have ended."""
        open_jobs = set(self._cluster.out("squeue", "--noheader", "--format=%A").split())
        return sum(job not in open_jobs for job in self.jobs)

    def wait(self, timeout_s: float) -> bool:
        """Until all have ended."""
        deadline = time.monotonic() + timeout_s
        while self.ended() < len(self.jobs):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def wait_clean(self, timeout_s: float) -> bool:
        """Until nothing is left of them on the cards and in Slurm's books."""
        deadline = time.monotonic() + timeout_s
        while self._left() or self._cluster.out("squeue", "--noheader"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def lines(self) -> list[Line]:
        """What tasks said so far."""
        found = list[Line]()
        for text in self._lines.read_text().splitlines():
            what, job, task, node, visible, pipe, percent, at = text.split()
            found.append(Line(what=what, job=job, task=int(task), node=node, visible=visible, pipe=pipe,
                              percent=percent, at_s=float(at)))  # fmt: skip
        return found

    def judge(self) -> Verdict:
        """All the wrong there is, now that it is over."""
        lines, verdict = self.lines(), Verdict()
        by_job: dict[str, list[Line]] = {}
        for line in lines:
            by_job.setdefault(line.job, []).append(line)
        for job, wish in self.jobs.items():
            mine = by_job.get(job, [])
            begun = [line for line in mine if line.what == "begin"]
            if len(begun) != wish.tasks or len(mine) != 2 * wish.tasks:
                verdict.lost.append(f"job {job} ({' '.join(wish.options)}): {len(mine)} lines")
                continue
            verdict.runs += 1
            verdict.misplaced += self._misplaced(job, wish, begun)
        verdict.illegal += sorted(self._clashes) + _doubles(lines, "visible") + _doubles(lines, "pipe")
        verdict.leftover += self._left()
        drained = self._cluster.out("sinfo", "--noheader", "--states=drain,down,fail", "--format=%N %E")
        verdict.drained += drained.splitlines()
        return verdict

    def _misplaced(self, job: str, wish: Wish, begun: Sequence[Line]) -> list[str]:
        found = list[str]()
        if len({line.node for line in begun}) != wish.nodes:
            found.append(f"job {job} ran on {len({line.node for line in begun})} nodes, not {wish.nodes}")
        for line in begun:
            if line.visible.startswith("GPU-") and wish.percent:
                if line.pipe == "-" or line.percent not in {str(wish.percent), "-"}:
                    found.append(f"job {job}: pipe {line.pipe}, {line.percent} % for {wish.percent} %")
                continue
            where = self._seen.get(line.visible)
            if where is None or where[0] != line.node or where[1].profile != wish.profile:
                found.append(
                    f"job {job} task {line.task} on {line.node}: {line.visible} is {where}, not {wish.profile}"
                )
        if wish.mig and not wish.percent and len({line.visible for line in begun}) != wish.tasks:
            found.append(f"job {job}: two tasks on one slice")
        return found

    def _left(self) -> list[str]:
        return [
            f"{node}: {one.profile} at {one.start} of GPU {one.gpu}"
            for node in self._cluster.node_names
            for one in self._cluster.gpus(node).slices()
        ]

    def _watch(self) -> None:
        """What the drivers have, as long as the storm lasts: whose UUID is what, and that nothing overlaps."""
        while not self._stop.wait(0.1):
            for node in self._cluster.node_names:
                units = Counter[tuple[int, int]]()
                for one in self._cluster.gpus(node).slices():
                    for _, uuid in one.computes:
                        self._seen[uuid] = node, one
                    units.update((one.gpu, unit) for unit in range(one.start, one.start + one.units))
                self._clashes |= {f"{node}: two instances at unit {at} of GPU {gpu}" for (gpu, at), n in units.items()
                                  if n > 1}  # fmt: skip


def _doubles(lines: Sequence[Line], name: str) -> list[str]:
    """Slices or pipes that two jobs had at a time."""
    spans: dict[str, list[tuple[float, float, str]]] = {}
    begun: dict[tuple[str, int, str], Line] = {}
    for line in lines:
        value = getattr(line, name)
        if value == "-" or (name == "visible" and not value.startswith("MIG-")):
            continue
        key = line.job, line.task, value
        if line.what == "begin":
            begun[key] = line
        elif key in begun:
            spans.setdefault(value, []).append((begun.pop(key).at_s, line.at_s, line.job))
    return [
        f"jobs {one[2]} and {other[2]} both had {value}"
        for value, each in spans.items()
        for one, other in pairwise(sorted(each))
        if other[0] < one[1] and one[2] != other[2]
    ]


def counted(wishes: Sequence[Wish]) -> Mapping[str, int]:
    """How many of each kind."""
    return Counter(wish.profile or "share" for wish in wishes)
