"""`slurmext completion`: shell completion, made by click."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from slurmext.cli.base import Command


@click.command(
    "completion",
    cls=Command,
    examples=[
        ("slurmext completion bash > /etc/bash_completion.d/slurmext", "for every user of bash"),
        ("slurmext completion zsh > ~/.zfunc/_slurmext", "zsh, in a folder of $fpath"),
        ("slurmext completion fish > ~/.config/fish/completions/slurmext.fish", "fish"),
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def cli(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click has no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, "slurmext", "_SLURMEXT_COMPLETE").source())
