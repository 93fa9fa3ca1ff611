"""`slurmext`: the one command. Each noun is a module of this package, imported only when it is used."""

from __future__ import annotations

import os
from pathlib import Path

import click

from slurmext import __version__
from slurmext.cli.base import LazyGroup
from slurmext.cli.session import Session

COMMANDS: dict[str, tuple[str, str]] = {
    "job": ("slurmext.cli.job:cli", "Jobs slurmext looks after: list them, explain one."),
    "queue": ("slurmext.cli.queue:cli", "Queues: who may use how many GPUs, and who does."),
    "size": ("slurmext.cli.size:cli", "Sizes: what 'sbatch --size=NAME' asks for."),
    "slice": ("slurmext.cli.slice:cli", "Slices: parts of GPUs, who has them, and which size would do."),
    "model": ("slurmext.cli.model:cli", "Models to stage: import, share, and bring to nodes."),
    "plan": ("slurmext.cli.plan:cli", "What the daemon would do now, or for a snapshot."),
    "simulate": ("slurmext.cli.simulate:cli", "What a policy would do to a history of jobs."),
    "defrag": ("slurmext.cli.defrag:cli", "Move small jobs together, so that whole nodes are free."),
    "trace": ("slurmext.cli.trace:cli", "Histories of jobs to simulate with."),
    "history": ("slurmext.cli.history:cli", "What happened, oldest first."),
    "ckpt": ("slurmext.cli.ckpt:cli", "Checkpoints: of jobs, and in directories."),
    "policy": ("slurmext.cli.policy:cli", "The policy: check, compare, apply, export."),
    "snapshot": ("slurmext.cli.snapshot:cli", "What the daemon sees, as a file."),
    "daemon": ("slurmext.cli.daemon:cli", "The controller, slurmextd."),
    "doctor": ("slurmext.cli.doctor:cli", "Settings of this Slurm that would hurt, and the line to change."),
    "install": ("slurmext.cli.install:cli", "Put slurmext into a Slurm."),
    "uninstall": ("slurmext.cli.install:uninstall", "Take slurmext out of a Slurm again."),
    "devcluster": ("slurmext.cli.devcluster:cli", "A real Slurm on this machine, in a directory of its own."),
    "demo": ("slurmext.cli.demo:cli", "Watch reclaim, slices and models on a real Slurm, and check them."),
    "completion": ("slurmext.cli.completion:cli", "Shell completion for bash, zsh or fish."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="slurmext")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Site file. Default: $SLURMEXT_CONF, else /etc/slurmext/slurmext.yaml.",
)
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Elastic GPU queues, checkpoint-aware reclaim and explanations for Slurm.

    'slurmext COMMAND --help' shows each command's options and examples.
    """
    if config is not None:
        os.environ["SLURMEXT_CONF"] = str(config.absolute())  # for every part of the program, and what it starts
    if ctx.obj is None:
        ctx.obj = Session()


def main() -> None:
    """Entry point."""
    cli(prog_name="slurmext")


if __name__ == "__main__":
    main()
