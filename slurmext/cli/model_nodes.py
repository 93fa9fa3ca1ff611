"""`slurmext model stage`, `pin`, `unpin`, `evict`: which nodes shall have a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command
from slurmext.cli.formats import span
from slurmext.cli.model_options import (
    dry_run_option,
    expanded,
    model_argument,
    nodes_option,
    tier_option,
    timeout_option,
    told,
    wait_option,
)
from slurmext.cli.render import json_option, print_json
from slurmext.model.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.cli.session import Session


@click.command(
    "stage",
    cls=Command,
    examples=[
        ("slurmext model stage org/llama -w n[1-8]", "bring it to these nodes now, before any job asks"),
        ("slurmext model stage org/llama -w n1 --wait", "and follow it until it is there"),
    ],
    exit_codes={1: "failed, also on one node only (--wait)"},
)
@model_argument
@nodes_option
@tier_option
@wait_option
@timeout_option
@dry_run_option
@json_option
@click.pass_obj
def stage(
    session: Session, *, model: str, nodes: str | None, tier: str, waits: bool, timeout_s: float | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Bring a model of yours to nodes. It stays there until room is needed."""
    answer = session.ask("model_stage", model=model, nodes=expanded(nodes), tier=tier, dry_run=dry_run or None)
    _follow(session, answer, "comes to", waits=waits, timeout_s=timeout_s, as_json=as_json)


@click.command(
    "pin",
    cls=Command,
    examples=[("slurmext model pin org/llama -w n[1-8]", "bring it to these nodes, and keep it there")],
    exit_codes={1: "failed, also on one node only (--wait)"},
)
@model_argument
@nodes_option
@wait_option
@timeout_option
@dry_run_option
@json_option
@click.pass_obj
def pin(
    session: Session, *, model: str, nodes: str | None, waits: bool, timeout_s: float | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Have nodes keep a model in memory whether a job uses it or not; after a reboot they get it again."""
    answer = session.ask("model_pin", model=model, nodes=expanded(nodes), dry_run=dry_run or None)
    _follow(session, answer, "is kept on", waits=waits, timeout_s=timeout_s, as_json=as_json)


@click.command(
    "unpin",
    cls=Command,
    examples=[
        ("slurmext model unpin org/llama", "no node needs to keep it any longer"),
        ("slurmext model unpin org/llama -w n3", "one node less"),
    ],
)
@model_argument
@nodes_option
@dry_run_option
@json_option
@click.pass_obj
def unpin(session: Session, *, model: str, nodes: str | None, dry_run: bool, as_json: bool) -> None:
    """Undo pin. The copies stay until room is needed, or you evict them."""
    asked = expanded(nodes)
    answer = session.ask("model_unpin", model=model, nodes=asked, dry_run=dry_run or None)
    if as_json or answer["nodes"]:
        told(answer, "is no longer kept on", as_json=as_json)
    if never := sorted({*(asked or ())} - {*answer["nodes"]}):
        click.echo(f"slurmext: {answer['reference']} was not kept on {', '.join(never)}", err=True)
    elif not answer["nodes"]:
        click.echo(f"slurmext: {answer['reference']} was kept on no node", err=True)


@click.command(
    "evict",
    cls=Command,
    examples=[
        ("slurmext model evict org/llama@v1", "take it from every node where nobody uses it"),
        ("slurmext model evict org/llama -w n2", "from one node"),
    ],
    exit_codes={1: "failed, or a job or pin holds it on a node"},
)
@model_argument
@nodes_option
@tier_option
@dry_run_option
@json_option
@click.pass_obj
def evict(session: Session, *, model: str, nodes: str | None, tier: str, dry_run: bool, as_json: bool) -> None:
    """Remove copies of a model of yours. What a running job or a pin holds stays."""
    answer = session.ask("model_evict", model=model, nodes=expanded(nodes), tier=tier, dry_run=dry_run or None)
    told(answer, "leaves", as_json=as_json)
    kept: dict[str, Sequence[str]] = answer["kept"]
    for node, holders in sorted(kept.items()):
        click.echo(f"slurmext: {node} keeps it: held by {', '.join(holders)}", err=True)
    if kept:
        raise SystemExit(1)


def _follow(
    session: Session, answer: dict[str, Any], verb: str, *, waits: bool, timeout_s: float | None, as_json: bool
) -> None:
    if not waits or answer["dry_run"]:
        told(answer, verb, as_json=as_json)
        return
    from slurmext.cli.model_follow import follow

    done = follow(session, answer["reference"], answer["nodes"], answer["tier"], timeout_s=timeout_s)
    if as_json:
        print_json({**answer, "replicas": done.replicas, "took_s": done.took_s})
    else:
        click.echo(f"{answer['reference']} is on {len(done.complete)} of {counted(len(answer['nodes']), 'node')} after"
                   f" {span(done.took_s)}")  # fmt: skip
        for row in done.replicas:
            if row["node"] not in done.complete:
                click.echo(f"slurmext: {row['node']}: {row['state']} {row['why']}".rstrip(), err=True)
    if len(done.complete) < len(answer["nodes"]):
        raise SystemExit(1)
