"""What the commands of `slurmext model` have in common."""

from __future__ import annotations

from typing import Any

import click

from slurmext.cli.completing import complete_model
from slurmext.cli.render import print_json
from slurmext.errors import UsageError

model_argument = click.argument("model", metavar="MODEL", shell_complete=complete_model)
nodes_option = click.option("-w", "--nodelist", "nodes", metavar="NODES", help="Nodes, for example n[1-8].")
tier_option = click.option(
    "--tier", type=click.Choice(["memory", "disk"]), default="memory", show_default=True, help="Where on the node."
)
wait_option = click.option("--wait", "waits", is_flag=True, help="Wait until every node has it.")
timeout_option = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Check and show; change nothing.")


def expanded(nodes: str | None) -> list[str] | None:
    """Node names of `n[1-8]`. Raises UsageError."""
    if nodes is None:
        return None
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        return list(NodeSet(nodes, resolver=RESOLVER_NOGROUP))
    except NodeSetException as error:
        raise UsageError(f"{nodes!r} are no nodes ({error}); for example n[1-8] or n1,n3") from error


def told(answer: dict[str, Any], verb: str, *, as_json: bool) -> None:
    """Say what was asked of which nodes."""
    if as_json:
        print_json(answer)
        return
    nodes = ", ".join(answer["nodes"]) or "no node"
    click.echo(f"{answer['reference']} {'(dry run) ' if answer['dry_run'] else ''}{verb} {nodes}")
