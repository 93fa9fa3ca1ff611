"""`slurmext ckpt`: checkpoints that jobs confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.formats import moment, size
from slurmext.cli.render import Column, Output, output_options

if TYPE_CHECKING:
    from slurmext.cli.session import Session

COLUMNS = (
    Column(key="job_id", title="JobID"),
    Column(key="step", title="Step", right=True),
    Column(key="saved_s", title="Saved", show=moment),
    Column(key="size_bytes", title="Size", show=size, right=True),
    Column(key="node", title="Node"),
    Column(key="path", title="Path"),
    Column(key="confirmed_s", title="Confirmed", show=moment, shown=False),
)


@click.group(cls=Group)
def cli() -> None:
    """Checkpoints that jobs confirmed."""


@cli.command(
    "list",
    cls=Command,
    examples=[
        ("slurmext ckpt list", "newest first"),
        ("slurmext ckpt list --job 41 -nP -o Path", "where job 41's are"),
    ],
)
@click.option("-j", "--job", metavar="JOB", help="Only this job's.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@output_options
@click.pass_obj
def list_checkpoints(session: Session, output: Output, job: str | None, limit: int) -> None:
    """List checkpoints, newest first: root sees all, others their own jobs'."""
    answer = session.ask("checkpoints", job=job, limit=limit)
    output.rows(COLUMNS, answer["checkpoints"], empty="no checkpoint was confirmed yet")
