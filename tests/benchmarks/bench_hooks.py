"""What slurmext costs Slurm: `python tests/benchmarks/bench_hooks.py [--quick]`.

Two real Slurm clusters of four nodes side by side, one with slurmext and one without, take turns in running the same
jobs while the other one's daemons stand still. Then each hook is timed against an empty one, as slurmd runs them. The
last line is JSON: throughput_ratio (jobs per second with slurmext ÷ without, median of the rounds, of the jobs that
slurmext manages), throughput_ratio_cpu (of jobs it leaves alone; both cores are busy then, with four nodes and the
controller on one small machine), start_extra_s_p50 (from sbatch to the first line of the script on an idle cluster,
seconds more with slurmext), prolog_ms_p50, epilog_ms_p50, task_prolog_ms_p50, empty_hook_ms_p50.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.install.conf_edit import values_of

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKLOADS = {
    "gpu": ("one-GPU jobs, held, admitted and released by slurmext", ["--gres=gpu:1"]),
    "cpu": ("jobs slurmext leaves alone: hooks and job_submit only", ["--ntasks=1"]),
}
ROUND_LIMIT_S = 300


def main() -> int:
    """Boot, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds, in under a minute")
    parser.add_argument("--jobs", type=int, help="jobs in a round [300; quick 40]")
    parser.add_argument("--rounds", type=int, help="rounds of each cluster and workload [5; quick 2]")
    parser.add_argument("--job-s", type=float, default=1.0, help="seconds each job sleeps [1]")
    options = parser.parse_args()
    jobs = options.jobs or (40 if options.quick else 300)
    rounds = options.rounds or (2 if options.quick else 5)
    name = f"bench-{os.getpid()}"
    with (
        Devcluster.up(ClusterSpec(name=f"{name}-p", plain=True)) as plain,
        Devcluster.up(ClusterSpec(name=f"{name}-x")) as ours,
    ):
        result: dict[str, float] = {}
        for workload, (words, flags) in WORKLOADS.items():
            print(f"\n{jobs} {words}, each sleeping {options.job_s:g} s (jobs/s)")
            rates = measure_rates(plain, ours, flags, jobs=jobs, rounds=rounds, job_s=options.job_s)
            ratio = statistics.median(with_us / without for without, with_us in rates)
            result[f"throughput_ratio_{workload}"] = round(ratio, 3)
            print(f"  ratio {ratio:.3f}")
        result["throughput_ratio"] = result["throughput_ratio_gpu"]
        result["start_extra_s_p50"] = measure_start(plain, ours, 5 if options.quick else 15)
        result |= measure_hooks(ours, 30 if options.quick else 100)
    print(json.dumps(result))
    return 0


def measure_rates(
    plain: Devcluster, ours: Devcluster, flags: list[str], *, jobs: int, rounds: int, job_s: float
) -> list[tuple[float, float]]:
    """(without, with) jobs per second for each round; who goes first alternates. A first round warms up."""
    rates: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = [(plain, ours), (ours, plain)]
        rate: dict[str, float] = {}
        for runs, rests in (pair[0], pair[1]) if number % 2 == 0 else (pair[1], pair[0]):
            with standing_still(rests):
                rate["with" if runs is ours else "without"] = jobs_per_second(
                    runs, flags, jobs // 3 if number == 0 else jobs, job_s
                )
        print(f"  round {number or 'warm-up'}: without {rate['without']:6.2f}   with {rate['with']:6.2f}", flush=True)
        if number:
            rates.append((rate["without"], rate["with"]))
    return rates


def jobs_per_second(cluster: Devcluster, flags: list[str], jobs: int, job_s: float) -> float:
    """From the first submission to the end of the last job, epilog included."""
    batch = ["sbatch", "--quiet", "--output=/dev/null", "--mem=1", *flags, f"--wrap=/bin/sleep {job_s:g}"]
    started = time.monotonic()
    environment = cluster.environment()
    program = str(cluster.bin / "sbatch")
    for _ in range(jobs):
        subprocess.run([program, *batch[1:]], env=environment, check=True, cwd="/", stdout=subprocess.DEVNULL)
    deadline = started + ROUND_LIMIT_S
    while cluster.out("squeue", "--noheader", "--format=%A"):
        if time.monotonic() > deadline:
            raise SystemExit(f"jobs did not end within {ROUND_LIMIT_S} s:\n{cluster.out('squeue')}")
        time.sleep(0.1)
    return jobs / (time.monotonic() - started)


def measure_start(plain: Devcluster, ours: Devcluster, times: int) -> float:
    """Median seconds that a one-GPU job starts later with slurmext, on idle clusters, in turns."""
    taken: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(times):
            for name, cluster in (("without", plain), ("with", ours)):
                told = Path(folder, f"{name}-{number}")
                words = ["--quiet", "--output=/dev/null", "--mem=1", "--gres=gpu:1", f"--wrap=date +%s.%N > {told}"]
                called_at = time.time()
                subprocess.run([str(cluster.bin / "sbatch"), *words], env=cluster.environment(), check=True, cwd="/")
                while cluster.out("squeue", "--noheader", "--format=%A"):
                    if time.time() > called_at + ROUND_LIMIT_S:
                        raise SystemExit(f"the job did not end within {ROUND_LIMIT_S} s:\n{cluster.out('squeue')}")
                    time.sleep(0.2)
                taken[name].append(float(told.read_text()) - called_at)
                time.sleep(1)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"\nsbatch to running, idle cluster (s): without {medians['without']:.2f}   with {medians['with']:.2f}")
    return round(medians["with"] - medians["without"], 3)


@contextlib.contextmanager
def standing_still(cluster: Devcluster) -> Iterator[None]:
    """Stop the cluster's daemons from using any CPU, and let them go on afterwards."""
    pids = [pid for pid in cluster.status().values() if pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def measure_hooks(cluster: Devcluster, times: int) -> dict[str, float]:
    """Median milliseconds of each installed hook and of an empty one, in turns, with what slurmd gives them."""
    conf = cluster.layout.slurm_conf.read_text()
    hooks = {key: first_program(values_of(conf, key)[-1]) for key in ("Prolog", "Epilog", "TaskProlog")}
    environment = {"SLURM_JOB_UID": "0", "SLURMD_NODENAME": cluster.node_names[0], "SLURM_SUBMIT_DIR": "/tmp"}
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty")
        empty.write_text("#!/bin/sh\nexit 0\n")
        empty.chmod(0o755)
        programs = {"empty_hook": empty, **{key: Path(value) for key, value in hooks.items()}}
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(times):
            for name, program in programs.items():
                started = time.perf_counter()
                subprocess.run(
                    [program],
                    env=environment | {"SLURM_JOB_ID": str(900_000 + number)},
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                taken[name].append((time.perf_counter() - started) * 1000)
    names = {"empty_hook": "empty_hook", "Prolog": "prolog", "Epilog": "epilog", "TaskProlog": "task_prolog"}
    print(f"\nhooks, {times} times each (ms)          p50     p95")
    result: dict[str, float] = {}
    for name, values in taken.items():
        p50, p95 = statistics.median(values), sorted(values)[int(len(values) * 0.95)]
        print(f"  {name:<30}{p50:8.1f}{p95:8.1f}")
        result[f"{names[name]}_ms_p50"] = round(p50, 2)
    return result


def first_program(value: str) -> str:
    """The program of a Prolog= value, which may be a pattern."""
    path = Path(value)
    return str(sorted(path.parent.glob(path.name))[0]) if "*" in path.name else value


if __name__ == "__main__":
    sys.exit(main())
