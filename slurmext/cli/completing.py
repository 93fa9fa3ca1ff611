"""What the shell completes: names that the daemon knows and the user may see; nothing where it does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from slurmext.cli.session import Session
from slurmext.errors import SlurmextError

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _names(request: str, field: str, **arguments: Any) -> Complete:
    """Of what the request answers under its own name."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            session = ctx.find_object(Session) or Session()
            found = dict.fromkeys(str(row[field]) for row in session.ask(request, **arguments)[request])
        except SlurmextError:
            return []
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]

    return complete


complete_queue = _names("queues", "path")
complete_model = _names("models", "reference")
complete_job = _names("jobs", "job_id", ended=True, limit=1000)


def complete_job_or_directory(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A job's number, else what the shell finds."""
    return complete_job(ctx, parameter, incomplete) or [CompletionItem(incomplete, type="dir")]
