"""`slurmext daemon`: the state of the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.formats import clock, plain, span
from slurmext.cli.render import Output, json_option, pairs
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from slurmext.cli.session import Session


@click.group(cls=Group)
def cli() -> None:
    """The controller, slurmextd."""


@cli.command(
    "status",
    cls=Command,
    examples=[
        ("slurmext daemon status", "who is in charge, and whether it works"),
        ("slurmext daemon status --json", "for monitoring"),
    ],
    exit_codes={0: "healthy", 1: "not healthy; the last lines say what is wrong"},
)
@json_option
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Show lease holder, heartbeat, last cycle, agents and open actions. Exit code 1 when something is wrong."""
    found = gather(session)
    if not Output(as_json=as_json).value(found):
        pairs(_lines(found))
        for problem in found["problems"]:
            click.echo(f"! {problem}", err=True)
    raise click.exceptions.Exit(0 if found["healthy"] else 1)


def gather(session: Session) -> dict[str, Any]:
    """What is known about the daemon, and what is wrong with it."""
    site, now = session.site, session.now()
    problems: list[str] = []
    answer: dict[str, Any] = {}
    try:
        answer = session.ask("status")
    except SlurmextError as error:
        problems.append(str(error))
    by_daemon = "cycle" in answer
    if answer and not by_daemon:
        problems.append(
            "slurmextd does not answer; what is shown comes from the database ('systemctl status slurmextd')"
        )
    age = session.heartbeat_age_s()
    stale = site.daemon.heartbeat_stale_s
    if site.daemon.shadow:
        pass  # it writes none then, so that no job is held
    elif age is None:
        problems.append(f"no heartbeat in {site.run_dir}: slurmextd has not run here, so jobs pass to Slurm unheld")
    elif abs(age) > stale:  # job_submit.lua takes one from the future as a clock gone wrong, too
        problems.append(
            f"the heartbeat is {span(age)} old (limit {span(stale)}): slurmextd does not run, jobs pass unheld"
        )
    lease = answer.get("lease")
    if answer and (lease is None or lease["expires_s"] < now or not lease["holder"]):
        problems.append("nobody holds the controller lease, so nothing is decided; start slurmextd")
    cycle = answer.get("cycle") or {}
    if cycle.get("error"):
        problems.append(f"the last cycle failed: {cycle['error']}")
    elif cycle.get("at_s") is not None and now - cycle["at_s"] > max(stale, 3 * site.daemon.interval_s):
        problems.append(f"the last cycle was {span(now - cycle['at_s'])} ago; the daemon's log says what it waits for")
    if answer and not answer.get("policy_version"):
        problems.append("no policy was applied yet, so no job is managed: 'slurmext policy apply FILE'")
    return {
        "healthy": not problems,
        "problems": problems,
        "shadow": site.daemon.shadow or None,
        "heartbeat_age_s": age,
        "answered_by": "daemon" if by_daemon else "database" if answer else None,
        **answer,
    }


def _lines(found: dict[str, Any]) -> list[tuple[str, object]]:
    lease, cycle, now = found.get("lease"), found.get("cycle") or {}, found.get("now_s")
    lines: list[tuple[str, object]] = [("Healthy", found["healthy"])]
    if lease is not None and now is not None:
        until = lease["expires_s"] - now
        ends = f"expires in {span(until)}" if until > 0 else f"expired {span(-until)} ago"
        lines.append(("Lease", f"{lease['holder'] or 'given up'}, token {lease['token']}, {ends}"))
    age = found["heartbeat_age_s"]
    lines.append(("Heartbeat", "never" if age is None else f"{span(age)} ago"))
    if cycle.get("at_s") is not None:
        took = f", took {span(cycle['took_s'])}" if cycle.get("took_s") is not None else ""
        lines.append(("Last cycle", f"{clock(cycle['at_s'])}{took}"))
    if "agents" in found:
        agents = found["agents"]
        lines.append(("Agents", f"{len(agents)} connected{': ' if agents else ''}{', '.join(sorted(agents))}"))
    if "open_actions" in found:
        lines.append(("Open actions", found["open_actions"]))
        lines.append(("Policy version", found["policy_version"] or "none"))
    if (laws := found.get("invariants")) is not None:
        checked = f"{laws['checked']} cycles checked" + (f" ({laws['skipped']} not)" if laws["skipped"] else "")
        cost = f", {laws['mean_ms']:.1f} ms each" if laws["mean_ms"] is not None else ""
        broken = f"{laws['broken']} broken" if laws["broken"] else "none broken"
        lines.append(("Invariants", f"{broken}, {checked}{cost}"))
        if laws["last"] is not None:
            lines.append(("Last broken", f"{clock(laws['last']['at_s'])} {laws['last']['law']}"))
            lines.append(("Its snapshot", laws["last"]["snapshot"] or "not saved"))
    known = {"healthy", "problems", "invariants", "lease", "cycle", "agents", "open_actions", "policy_version", "now_s"}
    rest = {key: value for key, value in found.items() if key not in known | {"heartbeat_age_s"}}
    lines += [(key.replace("_", " ").capitalize(), plain(value)) for key, value in rest.items() if value is not None]
    return lines
