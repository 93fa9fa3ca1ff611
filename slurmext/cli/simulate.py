"""`slurmext simulate`: what a policy would do to a history of jobs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command
from slurmext.cli.render import Output, output_options, print_json
from slurmext.cli.whatif import (
    QUEUES,
    TOTAL,
    Knobs,
    apply_knobs,
    as_json,
    draw,
    law_monitor,
    moment,
    placed,
    rounded,
    show,
    timetable,
    totals,
    warn,
    watched,
    world_options,
)
from slurmext.errors import UsageError

if TYPE_CHECKING:
    from slurmext.config.policy import SitePolicy
    from slurmext.model.job import Placement
    from slurmext.model.queue import Queue
    from slurmext.model.snapshot import Settings, Snapshot
    from slurmext.simulate.timetable import Timetable
    from slurmext.simulate.whatif import Question
    from slurmext.simulate.workload import TraceJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is asked, and under which queues and settings."""

    question: Question
    queues: tuple[Queue, ...]
    settings: Settings
    timetable: Timetable | None


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
        ("slurmext simulate -f cluster.yaml --policy new.yaml --trace jobs.csv --plot week.png", "and a picture"),
        (
            "slurmext simulate -f cluster.yaml --policy new.yaml --trace jobs.csv --scale-nodes 0.8 --fail n3@12+4",
            "with a fifth of the nodes less, and n3 out of use from hour 12 to 16",
        ),
    ],
    exit_codes={1: "failed, or a law of the planner was broken (--check)"},
)
@click.option(
    "-f", "--file", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="A cluster (YAML: 'version: 1', 'nodes: {n[01-32]: 8}') or a snapshot (JSON) to start from.",
)  # fmt: skip
@click.option("--trace", type=click.Path(path_type=Path), metavar="CSV", help="Jobs to submit; see 'slurmext trace'.")
@click.option("--policy", type=click.Path(path_type=Path), metavar="YAML", help="Queues. Default: the snapshot's.")
@click.option("--start", metavar="TIME", help="When the trace begins, for a policy with calendars: 2026-11-02T00:00.")
@click.option(
    "--compare",
    type=click.Choice(["static", "pool", "qos"]),
    multiple=True,
    help="Also decide this way, for comparison.",
)
@click.option(
    "--unlimited-hours", type=click.FloatRange(0, min_open=True), default=24.0, show_default=True,
    help="How long a snapshot's jobs without a time limit last.",
)  # fmt: skip
@click.option("--check", is_flag=True, help="Check every law of the planner on every plan (slower).")
@world_options
@output_options
def cli(
    file: Path,
    trace: Path | None,
    policy: Path | None,
    start: str | None,
    compare: tuple[str, ...],
    unlimited_hours: float,
    check: bool,
    knobs: Knobs,
    output: Output,
) -> None:
    """Replay a history of jobs through the daemon's own planner, in a clock that jumps from event to event.

    Utilisation is from the first submission to the last; waits are from a job's submission to its first start.
    Breaches are jobs within their queue's guarantee that waited longer than the grace and 5 s. Fairness is Jain's
    index of what queues got of their fair shares. With --json all of it also over time. Nothing real is touched.
    """
    from slurmext.simulate.whatif import SLURMEXT, answer

    case = _case(file, trace, policy, start, unlimited_hours * 3600, knobs)
    broken: list[str] = []
    reports = {
        way: watched(
            way,
            case.question,
            lambda look, way=way: answer(
                case.question, case.queues, case.settings, way=way, observe=look, timetable=case.timetable
            ),
            law_monitor(broken) if check and way == SLURMEXT else None,
        )
        for way in (SLURMEXT, *dict.fromkeys(compare))
    }
    draw(knobs, reports, f"{(policy or file).name}: {len(case.question.jobs) + len(case.question.running)} jobs")
    warn(case.question, case.queues, reports)
    if output.as_json and output.fields is None:
        told = {way: as_json(made) for way, made in reports.items()}
        print_json(told | ({"broken_laws": broken} if check else {}))
    else:
        show(output, (TOTAL, totals(reports)), (QUEUES, [rounded(queue) for queue in reports[SLURMEXT].queues]))
        for problem in broken[:10]:
            click.echo(f"broken law: {problem}", err=True)
    if broken:
        sys.exit(1)


def _case(
    file: Path, trace: Path | None, policy_file: Path | None, start: str | None, unlimited_s: float, knobs: Knobs
) -> Case:
    from slurmext.simulate.whatif import Question, fitted
    from slurmext.simulate.workload import load

    snapshot, policy = start_from(file, policy_file)
    jobs = load(trace) if trace else []
    waiting, running = _of_snapshot(snapshot, unlimited_s)
    everybody = [*jobs, *waiting, *(job for job, _ in running)]
    if not everybody:
        raise UsageError("there is nothing to simulate: add --trace CSV")
    queues, settings, times = snapshot.queues, snapshot.settings, None
    if policy is not None:
        policy, found = placed(policy, everybody)
        started_s = moment(start, policy) if start else (float(snapshot.now_s) or None)
        queues, settings = policy.queues, policy.as_model(1).settings
        times = timetable(policy, (job.queue for job in found), started_s)
    else:
        found = fitted(everybody, {queue.path for queue in queues}, lambda _job: None)
    split = len(found) - len(running)
    question = Question(
        nodes=snapshot.nodes,
        jobs=found[:split],
        running=[(job, place) for job, (_, place) in zip(found[split:], running, strict=True)],
    )
    return Case(question=apply_knobs(question, knobs), queues=queues, settings=settings, timetable=times)


def start_from(file: Path, policy_file: Path | None) -> tuple[Snapshot, SitePolicy | None]:
    """The snapshot or cluster of FILE, and the policy if one is given. Raises UsageError, ConfigError."""
    from slurmext.config.cluster_file import load_cluster
    from slurmext.config.policy import parse_policy
    from slurmext.config.wire import snapshot_from_json
    from slurmext.model.snapshot import Snapshot

    text, policy_text = read(file), read(policy_file) if policy_file else None
    snapshot = snapshot_from_json(text) if text.lstrip().startswith("{") else Snapshot(nodes=load_cluster(file, text))
    if policy_text is not None:
        return snapshot, parse_policy(policy_text, str(policy_file))
    if not snapshot.queues:
        raise UsageError(f"{file} has no queues; add --policy YAML")
    return snapshot, None


def read(file: Path) -> str:
    """Text of a file. Raises UsageError."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (byte {error.start})") from error


def _of_snapshot(snapshot: Snapshot, unlimited_s: float) -> tuple[list[TraceJob], list[tuple[TraceJob, Placement]]]:
    """Jobs of the snapshot that wait, and those that run: they last as long as their time limit allows."""
    from slurmext.simulate.workload import TraceJob

    waiting: list[TraceJob] = []
    running: list[tuple[TraceJob, Placement]] = []
    for job in snapshot.jobs:
        ran_s = max(0, snapshot.now_s - job.started_s) if job.started_s is not None else 0
        left = unlimited_s if job.time_limit_s is None else job.time_limit_s - ran_s
        traced = TraceJob(
            id=job.id, queue=job.queue, submit_s=0, duration_s=max(1, left), gpus_per_task=job.gpus_per_task,
            tasks=job.tasks, min_tasks=job.min_tasks, user=job.user, priority=job.priority,
            preemptible=job.preemptible, time_limit_s=job.time_limit_s, types=" ".join(job.types),
        )  # fmt: skip
        if job.placement:
            running.append((traced, job.placement))
        else:
            waiting.append(traced)
    unlimited = sum(job.time_limit_s is None for job in snapshot.jobs)
    if unlimited:
        hours = f"{unlimited_s / 3600:g} h (--unlimited-hours)"
        click.echo(f"note: {unlimited} jobs have no time limit; they last {hours}", err=True)
    return waiting, running
