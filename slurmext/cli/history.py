"""`slurmext history`: what happened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command
from slurmext.cli.completing import complete_job
from slurmext.cli.formats import moment, parse_since
from slurmext.cli.render import Column, Output, output_options

if TYPE_CHECKING:
    from slurmext.cli.session import Session

COLUMNS = (
    Column(key="at_s", title="Time", show=moment),
    Column(key="source", title="Source"),
    Column(key="kind", title="Kind"),
    Column(key="job_id", title="JobID"),
    Column(key="message", title="Message"),
    Column(key="detail", title="Detail", show=lambda value: json.dumps(value) if value else "", shown=False),
    Column(key="id", title="ID", right=True, shown=False),
)


@click.command(
    "history",
    cls=Command,
    examples=[
        ("slurmext history --since 2h", "the last two hours"),
        ("slurmext history --job 41", "one job"),
        ("slurmext history --kind checkpoint --since today --json", "one kind of event, as data"),
    ],
)
@click.option("-j", "--job", metavar="JOB", shell_complete=complete_job, help="Only this job.")
@click.option("--since", metavar="TIME", help="From then on: 2h, 3d, today, 2026-11-21, 2026-11-21T10:00.")
@click.option("--kind", metavar="KIND", help="Only this kind of event, and its subkinds.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many, the newest."
)
@output_options
@click.pass_obj
def cli(session: Session, output: Output, *, job: str | None, since: str | None, kind: str | None, limit: int) -> None:
    """Show what happened, oldest first: root sees all, others what happened to their own jobs."""
    since_s = None if since is None else parse_since(since, session.now())
    answer = session.ask("history", job=job, since_s=since_s, kind=kind, limit=limit)
    empty = "nothing happened"
    if kind and not answer["events"]:
        everything = session.ask("history", job=job, since_s=since_s, kind=None, limit=limit)["events"]
        there = sorted({event["kind"].partition(".")[0] for event in everything})
        empty = f"nothing of kind {kind!r} happened" + (f"; what did is of kind {', '.join(there)}" if there else "")
    output.rows(COLUMNS, answer["events"], empty=empty)
