"""`slurmext size`: request templates to name with --size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.formats import plain
from slurmext.cli.render import Column, Output, output_options

if TYPE_CHECKING:
    from slurmext.cli.session import Session


def _or_default(value: object) -> str:
    return "default" if value is None else plain(value)


def _part(value: object) -> str:
    return "whole" if value is None else plain(value)


def _types(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) and value else "any"


COLUMNS = (
    Column(key="name", title="Size"),
    Column(key="gpus", title="GPUs", right=True),
    Column(key="nodes", title="Nodes", right=True),
    Column(key="gpus_per_node", title="GPUsPerNode", right=True),
    Column(key="slice", title="Slice", show=_part),
    Column(key="types", title="Types", show=_types),
    Column(key="cpus_per_gpu", title="CPUsPerGPU", show=_or_default, right=True),
    Column(key="memory_per_gpu", title="MemPerGPU", show=_or_default, right=True),
    Column(key="time", title="Time", show=_or_default, right=True),
    Column(key="summary", title="For"),
    Column(key="tasks_per_node", title="TasksPerNode", show=_or_default, right=True, shown=False),
)


@click.group(cls=Group)
def cli() -> None:
    """Sizes: what 'sbatch --size=NAME' asks for."""


@cli.command(
    "list",
    cls=Command,
    examples=[
        ("slurmext size list", "what each size asks for"),
        ("slurmext size list -nP -o Size", "their names, for a script"),
    ],
)
@output_options
@click.pass_obj
def list_sizes(session: Session, output: Output) -> None:
    """List the sizes of this site. What is 'default' is left to Slurm."""
    output.rows(COLUMNS, session.ask("sizes")["sizes"], empty="the policy has no sizes ('sizes:')")
