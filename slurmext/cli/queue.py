"""`slurmext queue`: who may use how many GPUs, and who does."""

from __future__ import annotations

import difflib
from typing import Any

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.completing import complete_queue
from slurmext.cli.entitlement import past_use, sentences, waiting
from slurmext.cli.formats import moment, parse_since, plain, span
from slurmext.cli.render import Column, Output, confirm, immediate_option, json_option, output_options, pairs
from slurmext.cli.session import Session
from slurmext.errors import SlurmextError, UsageError
from slurmext.model.amounts import amount, counted


def _limit(value: object) -> str:
    return "-" if value is None else plain(value)


COLUMNS = (
    Column(key="path", title="Queue"),
    Column(key="guaranteed", title="Guaranteed", right=True),
    Column(key="max", title="Max", show=_limit, right=True),
    Column(key="used", title="Used", right=True),
    Column(key="borrowed", title="Borrowed", right=True),
    Column(key="running_jobs", title="Running", right=True),
    Column(key="pending_jobs", title="Pending", right=True),
    Column(key="pending_gpus", title="PendingGPUs", right=True),
    Column(key="may_use", title="MayUse"),
    Column(key="reserved", title="Reserved", right=True, shown=False),
    Column(key="effective_max", title="EffectiveMax", show=_limit, right=True, shown=False),
    Column(key="weight", title="Weight", right=True, shown=False),
    Column(key="priority", title="Priority", right=True, shown=False),
    Column(key="lending_limit", title="LendingLimit", show=_limit, right=True, shown=False),
    Column(key="fence", title="Fence", shown=False),
    Column(key="job_sort", title="JobSort", shown=False),
    Column(key="min_runtime_s", title="MinRuntime", right=True, shown=False),
    Column(key="preemption_delay_s", title="PreemptionDelay", right=True, shown=False),
    Column(key="over_max", title="OverMax", shown=False),
    Column(key="leaf", title="Leaf", shown=False),
)

_CHANGES_SHOWN = 3
NO_POLICY = "no policy was applied yet; 'slurmext policy apply FILE' applies the first"


@click.group(cls=Group)
def cli() -> None:
    """Queues: who may use how many GPUs, and who does."""


def _queues(session: Session, path: str | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = session.ask("queues")["queues"]
    if path is None:
        return rows
    if not rows:
        raise SlurmextError(NO_POLICY)
    paths = [row["path"] for row in rows]
    if path not in paths:
        close = difflib.get_close_matches(path, paths, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"queues: {', '.join(paths)}"
        raise UsageError(f"there is no queue {path!r}; {hint}")
    return [row for row in rows if row["path"] == path or row["path"].startswith(f"{path}/")]


@cli.command(
    "list",
    cls=Command,
    examples=[
        ("slurmext queue list", "numbers and use of every queue"),
        ("slurmext queue list -nP -o Queue,Used", "for a script"),
    ],
)
@output_options
@click.pass_obj
def list_queues(session: Session, output: Output) -> None:
    """List queues with their numbers and their use, in GPUs. A queue's use includes that of the queues below it."""
    output.rows(COLUMNS, _queues(session), empty=NO_POLICY)


@cli.command("show", cls=Command, examples=[("slurmext queue show prod/chat", "all its numbers")])
@click.argument("queue", shell_complete=complete_queue)
@json_option
@click.pass_obj
def show(session: Session, queue: str, as_json: bool) -> None:
    """Show every number of QUEUE."""
    row = _queues(session, queue)[0]
    if Output(as_json=as_json).value(row):
        return
    shown = {column.key: column for column in COLUMNS}
    lines = [(column.title, column.show(row.get(key))) for key, column in shown.items()]
    for gpu_type, quota in row["by_type"].items():
        lines.append((f"Type {gpu_type}", f"guaranteed {quota['guaranteed']}, max {_limit(quota['max'])}"))
    lines += [(f"User {user}", f"max {_limit(limit['max'])}") for user, limit in row.get("users", {}).items()]
    lines += [(f"Group {group}", f"max {_limit(limit['max'])}") for group, limit in row.get("groups", {}).items()]
    if row["each_user_max"] is not None:
        lines.append(("Each user", f"max {row['each_user_max']}"))
    if row["dynamic"] is not None:
        lines.append(("Dynamic", "queues below it exist as soon as a job is in them"))
    lines += _calendar(row)
    if row["idle"] is not None:
        lines.append(("Idle GPUs", _idle(row["idle"])))
    if "acl" in row:
        acl = row["acl"] or {}
        lines.append(
            ("ACL", "; ".join(f"{key} {', '.join(names)}" for key, names in acl.items() if names) or "everyone")
        )
    pairs(lines)


def _idle(rule: dict[str, Any]) -> str:
    """What happens to a job whose GPUs idle."""
    only = ", while the queue uses more than its guarantee" if rule["action"] == "borrowed" else ""
    return (
        f"a job is warned after {span(rule['after_s'])} and requeued {span(rule['grace_s'])} later{only};"
        f" its owner may extend by up to {span(rule['max_extend_s'])}"
    )


def _calendar(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The calendar and what it changes next; the numbers above are those in force now."""
    lines = [("Calendar", window) for window in row["calendar"]]
    if row["calendar"]:
        lines[0] = ("Calendar", f"{row['calendar'][0]} ({row['timezone']}; above are the numbers in force now)")
    before = row
    for change in row["changes"][:_CHANGES_SHOWN]:
        if change["guaranteed"] is None:  # a parent without a number of its own
            change["guaranteed"] = before["guaranteed"]
        differs = [key for key in ("guaranteed", "reserved", "max", "lending_limit") if change[key] != before[key]]
        said = [f"{key} {_limit(before[key])} -> {_limit(change[key])}" for key in differs]
        said += ["by_type"] if change["by_type"] != before["by_type"] else []
        lines.append((f"At {moment(change['at_s'])}", ", ".join(said)))
        before = change
    over = row["used"] - row["max"] if row["max"] is not None else 0
    if row["cut_s"] is not None and over > 0:
        leaves = "it leaves" if over == 1 else "they leave"
        at = moment(row["cut_s"])
        lines.append(("Cut", f"{counted(over, 'GPU')} above max, which was made smaller: {leaves} at {at}"))
    if row["changes"]:
        does = "started, and told" if row["pre_drain"] == "tell" else "not started"
        lines.append(("PreDrain", f"borrowers that cannot end before such a change are {does}"))
    return lines


@cli.command("tree", cls=Command, examples=[("slurmext queue tree", "the hierarchy with use and numbers")])
@json_option
@click.pass_obj
def tree(session: Session, as_json: bool) -> None:
    """Show the queues as a tree."""
    rows = _queues(session)
    if Output(as_json=as_json).value(rows):
        return
    if not rows:
        click.echo(NO_POLICY, err=True)
    for index, row in enumerate(rows):
        click.echo(f"{_branches(rows, index)}  {_use(row)}")


def _branches(rows: list[dict[str, Any]], index: int) -> str:
    """`│  └─ name`: rows come with a parent before its children."""
    parts = rows[index]["path"].split("/")
    drawn = ""
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth]) + "/"
        following = [row["path"] for row in rows[index + 1 :] if row["path"].startswith(above)]
        goes_on = any(path.count("/") == depth for path in following)
        last = depth == len(parts) - 1
        drawn += ("├─ " if goes_on else "└─ ") if last else ("│  " if goes_on else "   ")
    return drawn + parts[-1]


def _use(row: dict[str, Any]) -> str:
    asking = f", {waiting(row)}" if row["pending_jobs"] else ""
    most = "no max" if row["max"] is None else f"max {row['max']}"
    return f"uses {amount(row['used'])} of {row['guaranteed']} guaranteed, {most}{asking}"


@cli.command(
    "explain",
    cls=Command,
    examples=[
        ("slurmext queue explain research", "what it may use, its fair share and why, who borrows and who starves"),
        ("slurmext queue explain research/nlp --since 30d", "with the use of the last 30 days"),
        ("slurmext queue explain research --json", "the same as data"),
    ],
)
@click.argument("queue", shell_complete=complete_queue)
@click.option("--since", metavar="TIME", help="Use from then on (7d, 2026-11-01). Default: 7 days.")
@json_option
@click.pass_obj
def explain(session: Session, queue: str, since: str | None, as_json: bool) -> None:
    """Say what QUEUE is entitled to, what its fair share is and why, who borrows from whom, and who used how much.

    The fair share is what the planner leads to when every queue gets what it asks for as far as there is enough: its
    guarantee first, and of the rest a part by weight. It changes with what waits.
    """
    row = _queues(session, queue)[0]
    since_s = None if since is None else parse_since(since, session.now())
    answer = session.ask("queue_explain", queue=queue, since_s=since_s)
    said = sentences(row, more=answer["lines"] is None)
    value = {"queue": queue, "sentences": said, **{key: answer[key] for key in ("account", "past_use", "since_s")}}
    if Output(as_json=as_json).value(value):
        return
    lines = answer["lines"] or ["slurmextd does not answer; it alone knows the fair share and who borrows from whom."]
    click.echo("\n".join([*said, "", *lines, "", *past_use(answer, queue)]))


@cli.command(
    "set",
    cls=Command,
    examples=[
        ("slurmext queue set research max=24 weight=2", "change numbers; the policy's comments stay"),
        ("slurmext queue set research max=", "back to the default"),
        ("slurmext queue set research/nlp acl.users=alice,bob --dry-run", "only show what would change"),
        ("slurmext queue set research/new guaranteed=4 --create", "add a queue"),
    ],
    exit_codes={1: "the policy would be wrong; nothing was changed"},
)
@click.argument("queue", shell_complete=complete_queue)
@click.argument("assignments", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--create", is_flag=True, help="Add the queue when it is not there; its parent must be.")
@click.option("--dry-run", is_flag=True, help="Show the change and make none.")
@immediate_option
@click.pass_obj
def set_values(
    session: Session, *, queue: str, assignments: tuple[str, ...], create: bool, dry_run: bool, immediate: bool
) -> None:
    """Change keys of QUEUE in the policy in force. An empty VALUE sets a key back to its default."""
    from slurmext.cli.consequences import show_consequences
    from slurmext.cli.policy import apply_text, show_changes
    from slurmext.config.policy import stored_policy
    from slurmext.config.policy_diff import diff_policies
    from slurmext.config.policy_edit import parse_changes, set_queue

    given: dict[str, str] = {}
    for item in assignments:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{item!r} is no change; write KEY=VALUE, for example max=24")
        if key in given:
            raise UsageError(f"{key!r} is given twice; give it once")
        given[key] = value
    changes = parse_changes(given)
    session.require_root("changes the policy")
    current = session.store.current_policy()
    if current is None:
        raise SlurmextError(NO_POLICY)
    text, after = set_queue(current.document, queue, changes, create=create)
    before = stored_policy(current)
    differences = diff_policies(before, after)
    show_changes(differences)
    show_consequences(session, before, after)
    if not differences or dry_run:
        return
    confirm("Apply this?", immediate=immediate)
    apply_text(session, text, based_on=current.version)
