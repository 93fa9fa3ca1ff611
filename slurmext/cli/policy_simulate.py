"""`slurmext policy diff --simulate`: two policies over the same history, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.render import Column, Output, print_json
from slurmext.cli.whatif import (
    TOTAL,
    Knobs,
    apply_knobs,
    as_json,
    draw,
    placed,
    rounded,
    show,
    timetable,
    totals,
    warn,
    watched,
)
from slurmext.errors import SlurmextError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurmext.cli.session import Session
    from slurmext.config.policy import SitePolicy
    from slurmext.config.policy_diff import Change
    from slurmext.config.site import SiteConfig
    from slurmext.model.node import Node
    from slurmext.simulate.report import QueueReport, Report
    from slurmext.simulate.workload import TraceJob

HISTORY_DAYS = 30.0
_SACCT_TIMEOUT_S = 600
_SHOWN = ("used_gpus", "wait_mean_s", "evictions", "lost_gpu_h", "breaches")
_TITLES = {
    "used_gpus": "Used", "wait_mean_s": "WaitMean", "evictions": "Evictions", "lost_gpu_h": "LostGpuH",
    "breaches": "Breaches", "guaranteed": "Guaranteed", "borrowed_gpus": "Borrowed", "wait_p95_s": "WaitP95",
    "wait_gpu_mean_s": "WaitPerGpu", "longest_reclaim_s": "Reclaim", "of_fair_share": "OfFairShare",
}  # fmt: skip
QUEUES = (
    Column(key="queue", title="Queue"),
    Column(key="jobs", title="Jobs", right=True, shown=False),
    *(Column(key=key, title=title, right=True, shown=key in _SHOWN) for key, title in _TITLES.items()),
    *(
        Column(key=f"{key}{when}", title=f"{_TITLES[key]}{title}", right=True, shown=False)
        for key in _TITLES
        for when, title in (("_before", "Before"), ("_after", "After"))
    ),
)
"""`Used` is what it was and what it is, `UsedBefore` and `UsedAfter` each alone; and so on."""


def compare(
    session: Session,
    policies: Mapping[str, SitePolicy],
    changes: Sequence[Change],
    *,
    cluster: Path | None,
    trace: Path | None,
    start_s: float | None,
    knobs: Knobs,
    output: Output,
) -> None:
    """Play the history under both policies (by name, the one before first) and show what differs."""
    jobs, began_s = _jobs(session, trace, knobs)
    nodes = _nodes(session, cluster)
    reports = {name: _play(name, policy, jobs, nodes, start_s or began_s, knobs) for name, policy in policies.items()}
    before, after = reports.values()
    draw(knobs, reports, f"{' and '.join(policies)}: {len(jobs)} jobs", queues_of=[*policies][-1])
    if output.as_json and output.fields is None:
        print_json(
            {
                "changes": [{"where": c.where, "key": c.key, "before": c.before, "after": c.after} for c in changes],
                "before": as_json(before),
                "after": as_json(after),
            }
        )
        return
    show(output, (TOTAL, totals(reports)), (QUEUES, side_by_side(before, after)))


def side_by_side(before: Report, after: Report) -> list[dict[str, Any]]:
    """A row for each queue of either: what it was, and what it is with the new policy; empty where it is not there."""
    sides = [{queue.queue: queue for queue in made.queues} for made in (before, after)]
    rows: list[dict[str, Any]] = []
    for path in sorted({*sides[0], *sides[1]}):
        found: list[QueueReport | None] = [side.get(path) for side in sides]
        row: dict[str, Any] = {"queue": path, "jobs": max(queue.jobs for queue in found if queue is not None)}
        old, new = ({} if queue is None else rounded(queue) for queue in found)
        for key in _TITLES:
            row |= {f"{key}_before": old.get(key), f"{key}_after": new.get(key)}
            row[key] = " -> ".join(str(value) for value in dict.fromkeys((old.get(key, "-"), new.get(key, "-"))))
        rows.append(row)
    return rows


def _play(
    name: str, policy: SitePolicy, jobs: Sequence[TraceJob], nodes: Sequence[Node], start_s: float | None, knobs: Knobs
) -> Report:
    from slurmext.simulate.whatif import Question, answer

    policy, found = placed(policy, jobs)
    question = apply_knobs(Question(nodes=nodes, jobs=found), knobs)
    times = timetable(policy, (job.queue for job in found), start_s)
    settings = policy.as_model(1).settings
    made = watched(
        name, question, lambda look: answer(question, policy.queues, settings, observe=look, timetable=times)
    )
    warn(question, policy.queues, {name: made})
    return made


def _jobs(session: Session, trace: Path | None, knobs: Knobs) -> tuple[list[TraceJob], float | None]:
    from slurmext.simulate.workload import load

    if trace is not None:
        return load(trace), None
    days = knobs.days or HISTORY_DAYS
    jobs, start_s = site_history(session.site, days)
    click.echo(f"{len(jobs)} jobs of the last {days:g} days, out of sacct", err=True)
    return jobs, start_s


def site_history(site: SiteConfig, days: float) -> tuple[list[TraceJob], float]:
    """The GPU jobs that Slurm's accounting has of the last `days`, and when the first was submitted (Unix time).

    Raises SlurmextError when there is no accounting, or nothing in it.
    """
    from slurmext.adapters.slurm_cli.runner import SlurmRunner
    from slurmext.simulate.formats import SACCT_FIELDS, SACCT_STATES, from_zero, parse

    runner = SlurmRunner(site.slurm.bin_dir, site.slurm.conf, timeout_s=_SACCT_TIMEOUT_S)
    hours = max(1, round(days * 24))
    words = ["-aXnP", "-S", f"now-{hours}hours", "-E", "now", "-s", SACCT_STATES, "-o", SACCT_FIELDS]
    try:
        text = runner.must("sacct", words)
    except SlurmextError as error:
        raise SlurmextError(f"no history from Slurm's accounting ({error}); give one with --trace jobs.csv") from error
    jobs, start_s = from_zero(parse(text, "sacct", "sacct"))
    if not jobs:
        raise SlurmextError(
            f"sacct has no GPU job that ended in the last {days:g} days; give more --days, or --trace jobs.csv"
        )
    return [replace(job, id=f"{job.id}-{number}") for number, job in enumerate(jobs)], start_s


def _nodes(session: Session, cluster: Path | None) -> Sequence[Node]:
    from slurmext.config.cluster_file import load_cluster
    from slurmext.config.wire import snapshot_from_json

    if cluster is None:
        session.require_root("sees the whole cluster; others name it with --cluster cluster.yaml")
        from slurmext.service.bootstrap import current_snapshot

        return current_snapshot(session.site).nodes
    from slurmext.cli.simulate import read

    text = read(cluster)
    nodes = snapshot_from_json(text).nodes if text.lstrip().startswith("{") else load_cluster(cluster, text)
    if not nodes:
        raise UsageError(f"{cluster} has no nodes")
    return nodes
