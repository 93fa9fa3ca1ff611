"""`slurmext snapshot`: what the daemon sees, as a file that replays exactly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command, Group
from slurmext.errors import UsageError

if TYPE_CHECKING:
    from slurmext.cli.session import Session


@click.group(cls=Group)
def cli() -> None:
    """What the daemon sees, as a file that 'slurmext plan --snapshot' replays exactly."""


@cli.command(
    "save",
    cls=Command,
    examples=[
        ("slurmext snapshot save now.json", "then: slurmext plan --snapshot now.json"),
        ("slurmext snapshot save - | slurmext plan --snapshot -", "the same without a file"),
    ],
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-f", "--force", is_flag=True, help="Replace FILE when it is there.")
@click.pass_obj
def save(session: Session, file: Path, force: bool) -> None:
    """Write the cluster, the policy and the jobs as slurmext sees them now to FILE ('-': standard output)."""
    session.require_root("sees the whole cluster's jobs")
    from slurmext.config.wire import snapshot_to_json
    from slurmext.service.bootstrap import current_snapshot

    text = snapshot_to_json(current_snapshot(session.site)) + "\n"
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        # names of users and jobs are in it: 0600
        with os.fdopen(os.open(file, flags, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UsageError(f"{file} is there already; add --force to replace it") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
