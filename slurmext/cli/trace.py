"""`slurmext trace`: histories of jobs to simulate with."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from slurmext.cli.base import Command, Group
from slurmext.errors import UsageError

_DATED_S = 300_000_000
"""Unix times before 1979 are no dates but seconds of a trace's own."""


@click.group(cls=Group)
def cli() -> None:
    """Histories of jobs that 'slurmext simulate --trace' replays."""


@cli.command(
    "import",
    cls=Command,
    examples=[
        ("slurmext trace import --from sacct history jobs.csv", "as a trace: the account is the queue"),
        ("slurmext trace import --from philly philly_jobs.csv.gz jobs.csv", "a public one"),
    ],
)
@click.option(
    "--from",
    "kind",
    type=click.Choice(["sacct", "philly", "helios", "openb", "swf"]),
    required=True,
    help="What FILE is.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("-f", "--force", is_flag=True, help="Replace OUT when it is there.")
def import_(kind: str, file: Path, out: Path, force: bool) -> None:
    """Turn FILE into the trace OUT (CSV). Jobs without GPUs are left out.

    Your own last month, which '--from sacct' reads:

    \b
    sacct -aXnP -S now-30days -E now -s CD,F,TO -o JobIDRaw,User,Account,Submit,ElapsedRaw,NNodes,AllocTRES,\\
    TimelimitRaw,AdminComment > FILE
    """  # noqa: D301  click's mark for a paragraph that stays as it is
    from slurmext.simulate import formats, workload

    if out.exists() and not force:
        raise UsageError(f"{out} is there already; add --force to replace it")
    jobs, first_s = formats.read_dated(file, kind)
    if not jobs:
        raise UsageError(f"{file} has no job with GPUs that ran")
    try:
        count = workload.save(out, jobs)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    queues = len({job.queue for job in jobs})
    days = (max(job.submit_s for job in jobs)) / 86400
    began = f", from {dt.datetime.fromtimestamp(first_s, tz=dt.UTC):%Y-%m-%dT%H:%M:%S} on" if first_s > _DATED_S else ""
    click.echo(f"{out}: {count} jobs of {queues} queues in {days:.1f} days{began}")
