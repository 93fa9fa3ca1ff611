"""`slurmext demo`: watch guarantees, reclaim, checkpoint and resume on a real Slurm."""

from __future__ import annotations

import os
import time

import click

from slurmext.cli.base import Command
from slurmext.errors import UsageError


@click.command(
    "demo",
    cls=Command,
    examples=[
        ("slurmext demo", "two to three minutes; exit code 0 only when every check holds"),
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
    """A queue borrows the whole cluster, another claims its guarantee: reclaim, checkpoint and resume, live.

    Boots 4 nodes x 8 simulated GPUs in a directory of their own, submits real training jobs with sbatch, and checks
    the outcome against Slurm's own records and the jobs' output.
    """
    if os.geteuid() != 0:
        raise UsageError("booting a Slurm needs root; run it with sudo")
    from rich.console import Console
    from rich.table import Table

    from slurmext.demo.story import play
    from slurmext.devcluster import ClusterSpec

    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  ", end="")
        console.print(text, markup=False)

    result = play(ClusterSpec(name=name, release=release), say, keep=keep)
    console.print("\n[bold]What slurmext recorded[/bold] (slurmext history)")
    console.print(result.timeline, markup=False)
    table = Table("", "must be true", "by Slurm's records and the jobs' output", box=None, pad_edge=False)
    for check in result.checks:
        table.add_row("[green]ok[/green]" if check.good else "[red]NO[/red]", check.what, check.found)
    console.print(table)
    console.print(
        f"\n{'every check holds' if result.good else 'a check FAILED'} after {time.monotonic() - began:.0f} s"
    )
    raise click.exceptions.Exit(0 if result.good else 1)
