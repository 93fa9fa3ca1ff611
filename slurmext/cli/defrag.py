"""`slurmext defrag`: small jobs move together, so that whole nodes are free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command
from slurmext.cli.plan import current, saved
from slurmext.cli.render import Column, Output, output_options

if TYPE_CHECKING:
    from slurmext.cli.session import Session
    from slurmext.model.plan import Plan
    from slurmext.model.snapshot import Snapshot

COLUMNS = (
    Column(key="job", title="Job"),
    Column(key="queue", title="Queue"),
    Column(key="gpus", title="GPUs", right=True),
    Column(key="from", title="From"),
    Column(key="to", title="To"),
    Column(key="cost_gpu_s", title="CostGpuSeconds", right=True),
)


@click.command(
    "defrag",
    cls=Command,
    examples=[
        ("slurmext defrag --dry-run", "which jobs would move where now, and what each move costs"),
        ("slurmext defrag", "have the daemon do it; 'slurmext history' shows what came of it"),
        ("slurmext defrag --dry-run --worth 2h", "the same if a free node were worth its GPUs for two hours"),
        ("slurmext defrag --dry-run --snapshot now.json", "the same for a file of 'slurmext snapshot save'"),
    ],
)
@click.option("--dry-run", "dry", is_flag=True, help="Show the moves; nothing is done.")
@click.option(
    "--worth", metavar="TIME", help="With --dry-run: what a free node is worth, instead of the policy's worth_s."
)
@click.option(
    "--snapshot", "file", type=click.Path(path_type=Path), metavar="FILE", help="With --dry-run: of this snapshot."
)
@output_options
@click.pass_obj
def cli(session: Session, dry: bool, worth: str | None, file: Path | None, output: Output) -> None:
    """Move small jobs together, so that whole nodes are free for large ones.

    Jobs are asked for a checkpoint and requeued, and start again on nodes that are in use anyway. That is done where a
    node that becomes wholly free is worth more than the moves cost: work since the last checkpoint and the restart.
    The policy's settings.defragment says what it is worth, how many jobs move at a time, and when it is done by itself.
    """
    from slurmext.errors import UsageError

    if not dry:
        if worth is not None or file is not None:
            raise UsageError("--worth and --snapshot go with --dry-run; settings.defragment says what the daemon does")
        session.require_root("moves jobs of others")
        session.ask("defragment")
        click.echo("The daemon looks for moves that are worth it; 'slurmext history' shows what it does.")
        return
    snapshot = current(session) if file is None else saved(file)
    snapshot = replace(snapshot, defragment=_wish(session, worth, file))
    from slurmext.policy.planner import plan

    made = plan(snapshot)
    output.rows(COLUMNS, _rows(snapshot, made), empty=_nothing(made))


def _wish(session: Session, worth: str | None, file: Path | None) -> Any:
    from slurmext.cli.formats import parse_span
    from slurmext.config.policy import stored_policy
    from slurmext.model.snapshot import Defragment

    wish = Defragment()
    if file is None:
        stored = session.store.current_policy()
        wish = wish if stored is None else stored_policy(stored).as_model(stored.version).defragment
    return wish if worth is None else replace(wish, worth_s=parse_span(worth))


def _nothing(made: Plan) -> str:
    if made.evict or any(move.beneficiary for move in made.move):
        return "Nothing moves while jobs are told to go for others; try again when they have left."
    return "No move is worth it."


def _rows(snapshot: Snapshot, made: Plan) -> list[dict[str, Any]]:
    from slurmext.policy.victims import move_cost

    jobs = {job.id: job for job in snapshot.jobs}
    return [
        {
            "job": move.job,
            "queue": jobs[move.job].queue,
            "gpus": jobs[move.job].placed_gpus,
            "from": ",".join(part.node for part in move.source),
            "to": ",".join(part.node for part in move.target),
            "cost_gpu_s": round(move_cost(jobs[move.job], snapshot.settings, snapshot.now_s)),
        }
        for move in made.move
        if not move.beneficiary
    ]
