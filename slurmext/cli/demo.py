"""`slurmext demo`: watch guarantees, reclaim, checkpoint and resume on a real Slurm."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command
from slurmext.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from slurmext.demo.checks import Check

_DRAWN_EVERY_S = 4.0


@click.command(
    "demo",
    cls=Command,
    examples=[
        ("slurmext demo", "three minutes; exit code 0 only when every check holds"),
        ("slurmext demo --release trixie", "the same on Debian 13's Slurm"),
        ("slurmext demo --keep", "leave the cluster up to look around in"),
    ],
    exit_codes={0: "every check holds", 1: "a check failed, or a step could not be taken"},
)
@click.option("--name", default="demo", show_default=True, help="Name of the devcluster it boots.")
@click.option(
    "--release", type=click.Choice(["native", "trixie", "forky"]), default="native", show_default=True,
    help="Slurm of this host, of Debian 13 or of forky.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Leave the cluster up.")
def cli(name: str, release: str, keep: bool) -> None:
    """A queue borrows the whole cluster, another claims its guarantee; sixty small jobs share eight GPUs; eight nodes
    get a model in the time of one. Live.

    Boots 4 nodes x 8 simulated GPUs in a directory of their own, submits real training jobs with sbatch, and checks
    the outcome against Slurm's own records and the jobs' output. The second act cuts the GPUs of 2 nodes into slices;
    the third brings a model to the memory of 8 nodes, and starts a second job where it is.
    """
    if os.geteuid() != 0:
        raise UsageError("booting a Slurm needs root; run it with sudo")
    from rich.console import Console
    from rich.text import Text

    from slurmext.cli.slice_map import frames
    from slurmext.demo.models import play_models
    from slurmext.demo.slices import play_slices
    from slurmext.demo.story import play
    from slurmext.devcluster import ClusterSpec

    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()

    def say(text: str) -> None:
        # At once: what is drawn live comes between two prints.
        console.print(Text.assemble((f"{time.monotonic() - began:6.1f} s", "dim"), f"  {text}"))

    spec = ClusterSpec(name=name, release=release)
    result = play(spec, say, keep=keep)
    with frames(console, seldom_s=_DRAWN_EVERY_S) as show:
        slices = play_slices(spec, say, show)
    models = play_models(spec, say)
    console.print("\n[bold]What slurmext recorded[/bold] (slurmext history)")
    console.print(result.timeline, markup=False)
    console.print("\n[bold]What must be true[/bold], and what Slurm's records and the jobs' output say")
    console.print(verdicts([*result.checks, *slices, *models]))
    good = result.good and all(check.good for check in (*slices, *models))
    console.print(f"\n{'every check holds' if good else 'a check FAILED'} after {time.monotonic() - began:.0f} s")
    raise click.exceptions.Exit(0 if good else 1)


def verdicts(checks: Sequence[Check]) -> Table:
    """Each check on a line of its own, what was found below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for check in checks:
        mark = Text("ok", "green") if check.good else Text("NO", "red")
        table.add_row(mark, Text.assemble(check.what, "\n", (check.found, "dim")))
    return table
