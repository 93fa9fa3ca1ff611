"""`slurmext simulate`: what a policy would do to a history of jobs."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command
from slurmext.cli.render import Column, Output, output_options, print_json
from slurmext.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.model.job import Placement
    from slurmext.model.queue import Queue
    from slurmext.model.snapshot import Settings, Snapshot
    from slurmext.simulate.engine import Outcome, World
    from slurmext.simulate.report import Report
    from slurmext.simulate.workload import TraceJob

TOTAL = (
    Column(key="way", title="Way"),
    Column(key="util", title="Util", right=True),
    Column(key="wait_mean_s", title="WaitMean", right=True),
    Column(key="wait_p95_s", title="WaitP95", right=True),
    Column(key="evictions", title="Evictions", right=True),
    Column(key="lost_gpu_h", title="LostGpuHours", right=True),
    Column(key="breaches", title="Breaches", right=True),
    Column(key="fairness", title="Fairness", right=True),
)
QUEUES = (
    Column(key="queue", title="Queue"),
    Column(key="guaranteed", title="Guaranteed", right=True),
    Column(key="used_gpus", title="Used", right=True),
    Column(key="jobs", title="Jobs", right=True),
    Column(key="wait_mean_s", title="WaitMean", right=True),
    Column(key="wait_p95_s", title="WaitP95", right=True),
    Column(key="evictions", title="Evictions", right=True),
    Column(key="lost_gpu_h", title="LostGpuHours", right=True),
    Column(key="longest_reclaim_s", title="LongestReclaim", right=True),
)
PEERS = ("static", "pool", "qos")


@click.command(
    "simulate",
    cls=Command,
    examples=[
        ("slurmext simulate -f cluster.yaml --policy new.yaml --trace jobs.csv", "replay a history under a policy"),
        ("slurmext simulate -f now.json --policy new.yaml", "what becomes of the jobs there are now"),
        (
            "slurmext simulate -f cluster.yaml --policy new.yaml --trace jobs.csv --compare static --compare qos",
            "side by side with partitions and with preempt/qos",
        ),
    ],
    exit_codes={1: "a law of the planner was broken (--check)"},
)
@click.option(
    "-f", "--file", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="A cluster (YAML: 'version: 1', 'nodes: {n[01-32]: 8}') or a snapshot (JSON) to start from.",
)  # fmt: skip
@click.option("--trace", type=click.Path(path_type=Path), metavar="CSV", help="Jobs to submit; see 'slurmext trace'.")
@click.option("--policy", type=click.Path(path_type=Path), metavar="YAML", help="Queues. Default: the snapshot's.")
@click.option("--compare", type=click.Choice(PEERS), multiple=True, help="Also decide this way, for comparison.")
@click.option("--save-s", type=click.FloatRange(0), default=20.0, show_default=True, help="Seconds a victim saves.")
@click.option("--restart-s", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds a restart costs.")
@click.option(
    "--every-s", type=click.FloatRange(0), default=3600.0, show_default=True,
    help="Seconds between periodic checkpoints; 0: none.",
)  # fmt: skip
@click.option("--tick-s", type=click.FloatRange(0), default=0.0, show_default=True, help="Plan for this long at once.")
@click.option("--check", is_flag=True, help="Check every law of the planner on every plan (slower).")
@output_options
def cli(
    file: Path,
    trace: Path | None,
    policy: Path | None,
    compare: tuple[str, ...],
    save_s: float,
    restart_s: float,
    every_s: float,
    tick_s: float,
    check: bool,
    output: Output,
) -> None:
    """Replay a history of jobs through the daemon's own planner, in a clock that jumps from event to event.

    Utilisation is from the first submission to the last; waits are from a job's submission to its first start. Late
    are jobs that GPUs were being taken back for longer than the grace and 5 s. Nothing real is touched.
    """
    from slurmext.simulate.engine import World

    snapshot = _start(file, policy)
    jobs, running = _jobs(snapshot, trace)
    world = World(save_s=save_s, restart_s=restart_s, checkpoint_every_s=every_s or None, tick_s=tick_s)
    broken: list[str] = []
    reports = {"slurmext": _run(snapshot, world, jobs, running, "slurmext", broken if check else None)}
    for way in compare:
        reports[way] = _run(snapshot, world, jobs, running, way, None)
    if output.as_json and output.fields is None:
        print_json({way: asdict(made) for way, made in reports.items()} | ({"broken_laws": broken} if check else {}))
    else:
        output.rows(TOTAL, _totals(reports))
        output.rows(QUEUES, (_rounded(asdict(queue)) for queue in reports["slurmext"].queues))
        for problem in broken[:10]:
            click.echo(f"broken law: {problem}", err=True)
    if broken:
        sys.exit(1)


def _start(file: Path, policy: Path | None) -> Snapshot:
    from slurmext.config.cluster_file import load_cluster
    from slurmext.config.policy import parse_policy
    from slurmext.config.wire import snapshot_from_json
    from slurmext.model.snapshot import Snapshot

    try:
        text = file.read_text(encoding="utf-8")
        policy_text = policy.read_text(encoding="utf-8") if policy else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}") from error
    snapshot = snapshot_from_json(text) if text.lstrip().startswith("{") else Snapshot(nodes=load_cluster(file, text))
    if policy_text is not None:
        model = parse_policy(policy_text, str(policy)).as_model(1)
        return replace(snapshot, queues=model.queues, settings=model.settings)
    if not snapshot.queues:
        raise UsageError(f"{file} has no queues; add --policy YAML")
    return snapshot


def _jobs(snapshot: Snapshot, trace: Path | None) -> tuple[list[TraceJob], list[tuple[TraceJob, Placement]]]:
    """Jobs to submit, and jobs of the snapshot that run: those last as long as their time limit allows."""
    from slurmext.simulate.workload import TraceJob, load

    jobs = load(trace) if trace else []
    running: list[tuple[TraceJob, Placement]] = []
    for job in snapshot.jobs:
        if job.time_limit_s is None:
            raise UsageError(f"job {job.id} of the snapshot has no time_limit_s: nobody can say how long it lasts")
        left = job.time_limit_s - (max(0, snapshot.now_s - job.started_s) if job.started_s is not None else 0)
        traced = TraceJob(
            id=job.id, queue=job.queue, submit_s=0, duration_s=max(1, left), gpus_per_task=job.gpus_per_task,
            tasks=job.tasks, min_tasks=job.min_tasks, user=job.user, priority=job.priority,
            preemptible=job.preemptible, time_limit_s=job.time_limit_s, types=" ".join(job.types),
        )  # fmt: skip
        if job.placement:
            running.append((traced, job.placement))
        else:
            jobs.append(traced)
    if not jobs and not running:
        raise UsageError("there is nothing to simulate: add --trace CSV")
    known = {queue.path for queue in snapshot.queues}
    strangers = sorted({job.queue for job in jobs} - known)
    if strangers:
        raise UsageError(f"the trace has jobs of queue {strangers[0]!r}, which the policy does not have")
    return jobs, running


def _run(
    snapshot: Snapshot,
    world: World,
    jobs: list[TraceJob],
    running: list[tuple[TraceJob, Placement]],
    way: str,
    broken: list[str] | None,
) -> Report:
    from slurmext.policy.planner import plan
    from slurmext.simulate import peers
    from slurmext.simulate.engine import Simulation
    from slurmext.simulate.report import report

    queues: tuple[Queue, ...] = snapshot.queues
    settings: Settings = snapshot.settings
    planner: Any = plan
    if way == "static":
        queues = peers.static(queues)
    elif way == "pool":
        planner = peers.QosPreemption({})
    elif way == "qos":
        planner, world = peers.QosPreemption({q.path: q.guaranteed or 0 for q in queues}), replace(world, saves=False)
    simulation = Simulation(
        nodes=snapshot.nodes, queues=queues, settings=settings, world=world, planner=planner,
        observe=_monitor(broken),
    )  # fmt: skip
    outcome: Outcome = simulation.run(jobs, running)
    return report(outcome)


def _monitor(broken: list[str] | None) -> Any:
    if broken is None:
        return lambda _snapshot, _plan: None
    from slurmext.policy.invariants import Watch
    from slurmext.policy.invariants.over_time import look_of

    watch = Watch()

    def look(snapshot: Any, made: Any) -> None:
        broken.extend(f"at {snapshot.now_s:.0f} s: {problem}" for problem in watch.look(look_of(snapshot, made)))

    return look


def _totals(reports: dict[str, Report]) -> Iterator[dict[str, Any]]:
    for way, made in reports.items():
        yield _rounded({"way": way, **{key: value for key, value in asdict(made).items() if key != "queues"}})


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    digits = {"util": 3, "fairness": 3, "used_gpus": 1, "lost_gpu_h": 1}
    return {
        key: (f"{value:.{digits.get(key, 0)}f}" if isinstance(value, float) else value) for key, value in row.items()
    }
