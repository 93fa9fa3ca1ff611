"""`slurmext job`: the jobs slurmext looks after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.completing import complete_job
from slurmext.cli.formats import clock, moment, parse_since, parse_span, span
from slurmext.cli.render import Column, Output, output_options

if TYPE_CHECKING:
    from slurmext.cli.session import Session

COLUMNS = (
    Column(key="job_id", title="JobID"),
    Column(key="name", title="Name"),
    Column(key="user", title="User"),
    Column(key="queue", title="Queue"),
    Column(key="state", title="State"),
    Column(key="gpus", title="GPUs", right=True),
    Column(key="nodes", title="Nodes"),
    Column(key="reason", title="Reason"),
    Column(key="preempted", title="Preempted", right=True),
    Column(key="restarts", title="Restarts", right=True, shown=False),
    Column(key="account", title="Account", shown=False),
    Column(key="ckpt", title="Ckpt", shown=False),
    Column(key="message", title="Message", shown=False),
    Column(key="submit_s", title="Submit", show=moment, shown=False),
    Column(key="start_s", title="Start", show=moment, shown=False),
    Column(key="end_s", title="End", show=moment, shown=False),
)


@click.group(cls=Group)
def cli() -> None:
    """Jobs slurmext looks after."""


@cli.command(
    "list",
    cls=Command,
    examples=[
        ("slurmext job list", "jobs that wait or run"),
        ("slurmext job list --queue prod --state pending", "what waits in prod and below it"),
        ("slurmext job list -P -o JobID,State,Reason", "for a script"),
        ("slurmext job list --all --since 1d --json", "ended ones of the last day too"),
    ],
)
@click.option("--queue", metavar="QUEUE", help="Only this queue and those below it.")
@click.option(
    "--state", type=click.Choice(["pending", "running", "completing", "suspended", "unknown"]), help="Only these."
)
@click.option("-u", "--user", metavar="USER", help="Only this user's (root; others see their own).")
@click.option("-a", "--all", "ended", is_flag=True, help="Ended jobs too.")
@click.option("--since", metavar="TIME", help="With --all: that ended since then (2h, 3d, 2026-11-21).")
@output_options
@click.pass_obj
def list_jobs(
    session: Session,
    output: Output,
    *,
    queue: str | None,
    state: str | None,
    user: str | None,
    ended: bool,
    since: str | None,
) -> None:
    """List jobs: root sees all, others their own."""
    since_s = None if since is None else parse_since(since, session.now())
    answer = session.ask("jobs", queue=queue, state=state, user=user, ended=ended, since_s=since_s, limit=100_000)
    output.rows(COLUMNS, answer["jobs"], empty="no jobs")


@cli.command(
    "explain",
    cls=Command,
    examples=[
        ("slurmext job explain 41", "why it waits, what must happen, who took its GPUs, what was lost"),
        ("slurmext job explain 12_4 --json", "the same as data"),
    ],
    exit_codes={1: "no such job, or it is not yours"},
)
@click.argument("job", shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_obj
def explain(session: Session, job: str, as_json: bool) -> None:
    """Say why JOB waits and what must happen; who preempted it, why, and what it lost; its checkpoint and timeline."""
    answer: dict[str, Any] = session.ask("job_explain", job=job)
    from slurmext.cli.explain import as_data, as_text

    if Output(as_json=as_json).value(as_data(answer)):
        return
    click.echo("\n".join(as_text(answer)))


@cli.command(
    "show",
    cls=Command,
    examples=[
        ("slurmext job show 41", "its queue, state and checkpoint, what its GPUs do, what it was told"),
        ("slurmext job show 41 --json", "the same as data"),
    ],
    exit_codes={1: "no such job, or it is not yours"},
)
@click.argument("job", shell_complete=complete_job)
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_obj
def show(session: Session, job: str, as_json: bool) -> None:
    """Show JOB: where it is, how much it uses its GPUs, whether they idle, and what it will have to leave for."""
    answer: dict[str, Any] = session.ask("job_show", job=job)
    from slurmext.cli.explain import as_card

    if Output(as_json=as_json).value(answer):
        return
    click.echo("\n".join(as_card(answer)))


@cli.command(
    "extend",
    cls=Command,
    examples=[
        ("slurmext job extend 41 --for 2h", "keep it for two hours although its GPUs are idle"),
        ("slurmext job extend 41 --for 0", "take that back"),
    ],
    exit_codes={1: "no such job, it is not yours, or it does not run", 2: "no duration, or too long a one"},
)
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--for", "duration", required=True, metavar="TIME", help="For how long from now (30m, 2h, 1h30m); 0: end."
)
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_obj
def extend(session: Session, job: str, duration: str, as_json: bool) -> None:
    """Keep JOB although its GPUs are idle. Its queue's policy says for how long at a time; ask again later for more."""
    answer: dict[str, Any] = session.ask("job_extend", job=job, for_s=parse_span(duration))
    if Output(as_json=as_json).value(answer):
        return
    rule, until_s = answer["idle"], answer["keep_until_s"]
    if until_s <= answer["now_s"]:
        click.echo(f"job {job} is not kept any longer: it leaves when its GPUs stay idle for {span(rule['after_s'])}")
        return
    click.echo(f"job {job} is kept until {clock(until_s)}; after that it is warned again before it must leave")
