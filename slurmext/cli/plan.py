"""`slurmext plan`: what the daemon would do, now or for a saved snapshot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command
from slurmext.cli.formats import clock
from slurmext.cli.render import Column, Output, output_options, print_json
from slurmext.errors import SlurmextError, UsageError

if TYPE_CHECKING:
    from slurmext.cli.session import Session
    from slurmext.model.plan import Plan
    from slurmext.model.snapshot import Snapshot

COLUMNS = (
    Column(key="action", title="Action"),
    Column(key="job", title="Job"),
    Column(key="queue", title="Queue"),
    Column(key="gpus", title="GPUs", right=True),
    Column(key="nodes", title="Nodes"),
    Column(key="for", title="For"),
    Column(key="why", title="Why"),
    Column(key="lost_gpu_s", title="LostGpuSeconds", right=True, shown=False),
)


@click.command(
    "plan",
    cls=Command,
    examples=[
        ("slurmext plan", "what the daemon would do now; nothing is done"),
        ("slurmext plan --snapshot now.json", "the same for a file that 'slurmext snapshot save' wrote"),
        ("slurmext plan --snapshot now.json --explain 4711", "why job 4711 waits, or is told to go"),
        ("slurmext plan --jsonl < many.jsonl", "one snapshot a line in, one plan a line out"),
    ],
    exit_codes={1: "failed; with --jsonl: a line could not be planned (its output line says why)"},
)
@click.option(
    "--snapshot",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Plan for this snapshot ('-': standard input) instead of the cluster as it is now.",
)
@click.option("--jsonl", is_flag=True, help="Read one snapshot a line from standard input, print one plan a line.")
@click.option("--explain", "job_id", metavar="JOB", help="Explain what the plan means for this job.")
@click.option("--explain-queue", "queue", metavar="QUEUE", help="Explain who borrows, who starves, and the fair share.")
@output_options
@click.pass_obj
def cli(
    session: Session, file: Path | None, jsonl: bool, job_id: str | None, queue: str | None, output: Output
) -> None:
    """Show what the daemon would do: who starts, who must go for whom, and why the others wait. Nothing is done."""
    if jsonl:
        if file is not None or job_id is not None or queue is not None:
            raise UsageError("--jsonl reads standard input and prints plans only; leave out --snapshot and --explain")
        sys.exit(_many())
    from slurmext.policy.planner import plan

    snapshot = current(session) if file is None else saved(file)
    made = plan(snapshot)
    if job_id is not None or queue is not None:
        _explain(snapshot, made, job_id, queue)
    elif output.as_json and output.fields is None:
        from slurmext.config.wire import plan_to_data

        print_json(plan_to_data(made))
    else:
        output.rows(COLUMNS, _rows(snapshot, made), empty="Nothing to do, and no job waits.")


def current(session: Session) -> Snapshot:
    """The cluster as the daemon sees it now."""
    session.require_root("sees the whole cluster's jobs")
    from slurmext.service.bootstrap import current_snapshot

    return current_snapshot(session.site)


def saved(file: Path) -> Snapshot:
    """The snapshot in a file, `-` for standard input. Raises UsageError with a line for each problem."""
    from slurmext.config.wire import snapshot_from_json

    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    try:
        return snapshot_from_json(text)
    except UsageError as error:
        lines = str(error).splitlines()
        raise UsageError("\n".join([f"{file}: {lines[0]}", *(f"{file}: {line}" for line in lines[1:])])) from error


def _many() -> int:
    """One plan for each line; a bad line gives an error object and the rest goes on."""
    from slurmext.config.wire import plan_to_data, snapshot_from_json
    from slurmext.policy.planner import plan

    failed = 0
    for number, line in enumerate(sys.stdin.buffer, start=1):
        if not line.strip():
            continue
        try:
            answer: dict[str, Any] = plan_to_data(plan(snapshot_from_json(line)))
        except SlurmextError as error:
            failed, answer = 1, {"line": number, "error": str(error)}
        except Exception as error:  # noqa: BLE001  one odd snapshot must not cost the answers to the others
            failed, answer = 1, {"line": number, "error": f"cannot be planned: {type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
        sys.stdout.flush()  # whoever pipes snapshots one by one reads each answer at once
    return failed


def _explain(snapshot: Snapshot, made: Plan, job_id: str | None, queue: str | None) -> None:
    from slurmext.policy.explain import explain, explain_queue

    if job_id is not None:
        if all(job.id != job_id for job in snapshot.jobs):
            raise UsageError(f"there is no job {job_id!r} in this snapshot")
        click.echo(explain(snapshot, made, job_id))
        if job_id in made.reasons:
            click.echo(_looked_ahead(snapshot, job_id))
    if queue is not None:
        if all(known.path != queue and not known.path.startswith(queue + "/") for known in snapshot.queues):
            raise UsageError(f"there is no queue {queue!r} in this snapshot")
        click.echo(explain_queue(snapshot, made, queue))


def _looked_ahead(snapshot: Snapshot, job_id: str) -> str:
    from slurmext.cli.formats import span
    from slurmext.service.forecast import forecast

    seen = forecast(snapshot, job_id)
    if seen.start_s is not None:
        when = f"it starts in {span(seen.start_s - snapshot.now_s)} at the latest"
    elif seen.never:
        when = "nothing that is known now starts it"
    else:
        when = f"it does not start in the next {span(seen.seen_s - snapshot.now_s)}"
    return f"By the planner's own clock, if running jobs use their whole time limit and nobody else comes, {when}."


def _rows(snapshot: Snapshot, made: Plan) -> Iterator[dict[str, Any]]:
    jobs = {job.id: job for job in snapshot.jobs}
    for release in made.release:
        yield {
            "action": "start",
            "job": release.job,
            "queue": jobs[release.job].queue,
            "gpus": sum(part.gpus for part in release.placement),
            "nodes": _nodes([(part.node, part.gpus) for part in release.placement]),
            "why": release.queue_usage.value,
        }
    for evict in made.evict:
        job = jobs[evict.job]
        whole = evict.action.value != "shrink"
        yield {
            "action": evict.action.value,
            "job": evict.job,
            "queue": evict.from_queue,
            "gpus": job.placed_gpus if whole else evict.tasks * job.gpus_per_task,
            "nodes": _nodes([(part.node, part.gpus) for part in job.placement]),
            "for": evict.beneficiary,
            "why": evict.reason.value,
            "lost_gpu_s": evict.lost_gpu_s,
        }
    for move in made.move:
        source, target = ([(part.node, part.gpus) for part in place] for place in (move.source, move.target))
        yield {
            "action": "move",
            "job": move.job,
            "queue": jobs[move.job].queue,
            "gpus": sum(part.gpus for part in move.target),
            "nodes": f"{_nodes(source)} -> {_nodes(target)}",
            "for": move.beneficiary,
            "why": move.reason.value,
        }
    for note in made.note:
        job = jobs[note.job]
        yield {
            "action": "tell",
            "job": note.job,
            "queue": job.queue,
            "gpus": job.placed_gpus,
            "nodes": _nodes([(part.node, part.gpus) for part in job.placement]),
            "why": f"{note.reason.value} at {clock(float(note.at_s))}",
        }
    kept = {fence.beneficiary: fence.placement for fence in made.fence}
    for job_id, reason in made.reasons.items():
        yield {
            "action": "wait",
            "job": job_id,
            "queue": jobs[job_id].queue,
            "gpus": jobs[job_id].gpus,
            "nodes": _nodes([(part.node, part.gpus) for part in kept.get(job_id, ())]),
            "why": reason.value,
        }


def _nodes(parts: list[tuple[str, int]]) -> str:
    """`n1:4,n2:8`."""
    return ",".join(f"{node}:{gpus}" for node, gpus in parts)
