"""`slurmext policy`: check, compare, apply and export the policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.consequences import show_consequences, warn_of_guarantees
from slurmext.cli.formats import moment
from slurmext.cli.render import Column, Output, confirm, immediate_option, json_option, output_options, print_json
from slurmext.cli.whatif import Knobs, world_options
from slurmext.errors import SlurmextError, UsageError
from slurmext.model.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.cli.session import Session
    from slurmext.config.policy import SitePolicy
    from slurmext.config.policy_diff import Change

MAX_BYTES = 8 << 20

VERSIONS = (
    Column(key="version", title="Version", right=True),
    Column(key="applied_s", title="Applied", show=moment),
    Column(key="applied_by", title="By"),
)


@click.group(cls=Group)
def cli() -> None:
    """The policy: the queue tree and the site-wide knobs."""


def _read(file: str) -> tuple[str, str]:
    """Text and name of a policy file; `-` is standard input."""
    try:
        with click.open_file(file, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{file} is larger than {MAX_BYTES >> 20} MiB; a policy is a few kilobytes")
    try:
        return content.decode(), "stdin" if file == "-" else file
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


@cli.command(
    "check",
    cls=Command,
    examples=[("slurmext policy check my-policy.yaml", "needs no daemon and no rights")],
    exit_codes={0: "the file is right", 1: "it is wrong; each problem is a line file:line: key: message"},
)
@click.argument("file")
@json_option
@click.pass_obj
def check(session: Session, file: str, as_json: bool) -> None:
    """Check FILE ('-': standard input) without applying it."""
    from slurmext.config.policy import parse_policy
    from slurmext.config.yaml_errors import ConfigError

    text, source = _read(file)
    try:
        policy = parse_policy(text, source)
    except ConfigError as error:
        if not as_json:
            raise
        keys = ("source", "line", "key", "message")
        print_json({"ok": False, "problems": [{key: getattr(item, key) for key in keys} for item in error.problems]})
        raise click.exceptions.Exit(1) from error
    guaranteed = sum(policy.guaranteed(queue.path) for queue in policy.queues if "/" not in queue.path)
    if Output(as_json=as_json).value({"ok": True, "queues": [queue.path for queue in policy.queues]}):
        return
    click.echo(
        f"{source}: good: {counted(len(policy.queues), 'queue')}, {counted(guaranteed, 'GPU')} guaranteed in all"
    )
    warn_of_groups(policy)
    warn_of_guarantees(session, None, policy)


def warn_of_groups(policy: SitePolicy) -> None:
    """Name the Unix groups that this host does not know: a misspelt one limits nobody."""
    from slurmext.adapters.unix_groups import is_known

    unknown = [group for group in policy.groups if not is_known(group)]
    if unknown:
        one = len(unknown) == 1
        click.echo(
            f"warning: {'group' if one else 'groups'} {', '.join(unknown)} {'is' if one else 'are'} not known on this"
            " host; 'getent group NAME' on the daemon's host says which it knows",
            err=True,
        )


def show_changes(changes: Sequence[Change]) -> None:
    """A line per change: `~ research max: 32 -> 24`."""
    if not changes:
        click.echo("nothing changes")
    for change in changes:
        where = f"{change.where} {change.key}".strip()
        if change.before is None:
            click.secho(f"+ {where}: {change.after}", fg="green")
        elif change.after is None:
            click.secho(f"- {where}: {change.before}", fg="red")
        else:
            click.secho(f"~ {where}: {change.before} -> {change.after}", fg="yellow")


@cli.command(
    "diff",
    cls=Command,
    examples=[
        ("slurmext policy diff my-policy.yaml", "what applying it would change"),
        ("slurmext policy diff my-policy.yaml --simulate", "what it would have changed for last month's jobs"),
        (
            "slurmext policy diff new.yaml --simulate --against old.yaml --trace jobs.csv --cluster cluster.yaml",
            "two files over a given history: needs no daemon and no Slurm",
        ),
    ],
    exit_codes={0: "nothing would change", 1: "something would change, or the file is wrong"},
)
@click.argument("file")
@click.option("--against", metavar="YAML", help="Compare with this policy instead of the one in force.")
@click.option("--simulate", is_flag=True, help="Also replay a history of jobs under both policies.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="That history. Default: sacct's last 30 days (--days).",
)
@click.option(
    "--cluster", type=click.Path(path_type=Path), metavar="FILE",
    help="Nodes for --simulate, as for 'slurmext simulate -f'. Default: those there are.",
)  # fmt: skip
@click.option("--start", metavar="TIME", help="When the trace begins, for policies with calendars: 2026-11-02T00:00.")
@world_options
@output_options
@click.pass_obj
def diff(
    session: Session,
    file: str,
    against: str | None,
    simulate: bool,
    trace: Path | None,
    cluster: Path | None,
    start: str | None,
    knobs: Knobs,
    output: Output,
) -> None:
    """Compare FILE with the policy in force.

    With --simulate a history of jobs is replayed under both, by the daemon's own planner: what each queue would use and
    wait for, who would be evicted and what would be lost.
    """
    from slurmext.config.policy import parse_policy
    from slurmext.config.policy_diff import diff_policies

    after = parse_policy(*_read(file))
    before = _policy_before(session, against)
    name, new = "in force" if against is None else Path(against).name, Path(file).name
    changes = diff_policies(before, after)
    if not simulate:
        if output.as_json:
            print_json([{"where": c.where, "key": c.key, "before": c.before, "after": c.after} for c in changes])
        else:
            show_changes(changes)
            if against is None and session.uid == 0:
                show_consequences(session, before, after)
    else:
        from slurmext.cli.policy_simulate import compare
        from slurmext.cli.whatif import moment

        if before is None:
            raise UsageError(
                "no policy was applied yet to compare with; use --against OLD.yaml, or 'slurmext simulate'"
            )
        if not output.as_json and not output.parsable:
            show_changes(changes)
            click.echo()
        compare(
            session,
            {name: before, new if new != name else f"{new} (new)": after},
            changes,
            cluster=cluster,
            trace=trace,
            start_s=moment(start, after),
            knobs=knobs,
            output=output,
        )
    raise click.exceptions.Exit(1 if changes else 0)


def _policy_before(session: Session, against: str | None) -> SitePolicy | None:
    from slurmext.config.policy import parse_policy, stored_policy
    from slurmext.model.state import PolicyVersion

    if against is not None:
        return parse_policy(*_read(against))
    stored = session.ask("policies", limit=1)["policies"]
    return stored_policy(PolicyVersion(**stored[0])) if stored else None


@cli.command(
    "apply",
    cls=Command,
    examples=[
        ("slurmext policy apply my-policy.yaml", "check, show what changes, ask, apply"),
        ("slurmext policy apply my-policy.yaml --dry-run", "the same without applying"),
        ("slurmext policy rollback", "go back to the policy before"),
    ],
    exit_codes={1: "the file is wrong; nothing was changed"},
)
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Show what would change and change nothing.")
@immediate_option
@click.pass_obj
def apply(session: Session, file: str, dry_run: bool, immediate: bool) -> None:
    """Make FILE the policy in force. Works without a daemon: it takes the policy up when it starts."""
    text, source = _read(file)
    _propose(session, text, source, dry_run=dry_run, immediate=immediate)


def _propose(session: Session, text: str, source: str, *, dry_run: bool, immediate: bool) -> None:
    """Check, show what changes and who would have to leave, ask, apply."""
    from slurmext.config.policy import parse_policy, stored_policy
    from slurmext.config.policy_diff import diff_policies

    after = parse_policy(text, source)
    session.require_root("applies a policy")
    current = session.store.current_policy()
    before = None if current is None else stored_policy(current)
    changes = diff_policies(before, after)
    show_changes(changes)
    show_consequences(session, before, after)
    if changes:
        warn_of_groups(after)
    if dry_run or (current is not None and current.document == text):
        return
    confirm("Apply this?", immediate=immediate)
    apply_text(session, text, based_on=0 if current is None else current.version)


def apply_text(session: Session, text: str, *, based_on: int) -> None:
    """Store a checked policy and wake the daemon. Raises SlurmextError when someone else applied one meanwhile."""
    from slurmext.config.policy import parse_policy

    session.require_root("changes the policy")
    newest = session.store.current_policy()
    if newest is not None and newest.version != based_on:
        raise SlurmextError(
            f"{newest.applied_by} applied policy version {newest.version} meanwhile; run the command again"
        )
    queues = parse_policy(text).queues  # kept beside the document, for reports
    version = session.store.apply_policy(text, session.author, session.now(), queues=queues).version
    session.wake()
    click.echo(f"policy version {version} applied")


@cli.command(
    "export",
    cls=Command,
    examples=[
        ("slurmext policy export > policy.yaml", "the policy in force, comments and all"),
        ("slurmext policy export --version 3", "an earlier one"),
    ],
    exit_codes={1: "no policy was applied yet"},
)
@click.option("--version", type=click.IntRange(min=1), help="Which one; 'slurmext policy list' lists them.")
@json_option
@click.pass_obj
def export(session: Session, version: int | None, as_json: bool) -> None:
    """Print the text of the policy in force, or of an earlier version."""
    stored = session.ask("policy", version=version)
    if not Output(as_json=as_json).value(stored):
        click.echo(stored["document"], nl=not stored["document"].endswith("\n"))


@cli.command(
    "edit",
    cls=Command,
    examples=[("slurmext policy edit", "open the policy in force in $EDITOR, then as 'policy apply'")],
    exit_codes={1: "nothing was applied"},
)
@immediate_option
@click.pass_obj
def edit(session: Session, immediate: bool) -> None:
    """Change the policy in force in an editor, see what changes, and apply it. What is wrong can be edited again."""
    from slurmext.config.yaml_errors import ConfigError

    session.require_root("changes the policy")
    current = session.store.current_policy()
    if current is None:
        raise SlurmextError("no policy was applied yet; 'slurmext policy apply FILE' applies the first")
    text: str | None = current.document
    while (text := click.edit(text, extension=".yaml", require_save=True)) is not None:
        try:
            _propose(session, text, "policy", dry_run=False, immediate=immediate)
        except ConfigError as error:
            click.echo(str(error), err=True)
            if not sys.stdin.isatty() or not click.confirm("Edit it again?", default=True):
                sys.exit(1)
        else:
            return
    click.echo("nothing was saved, nothing changes")


@cli.command(
    "rollback",
    cls=Command,
    examples=[
        ("slurmext policy rollback", "back to the version before the one in force"),
        ("slurmext policy rollback 3", "back to version 3; 'slurmext policy list' lists them"),
    ],
    exit_codes={1: "there is nothing to go back to"},
)
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--dry-run", is_flag=True, help="Show what would change and change nothing.")
@immediate_option
@click.pass_obj
def rollback(session: Session, version: int | None, dry_run: bool, immediate: bool) -> None:
    """Apply an earlier version again, as a new one. Without VERSION: the newest that differs from the one in force."""
    session.require_root("changes the policy")
    versions = session.ask("policies", limit=1000)["policies"]
    if version is None:
        older = [stored["version"] for stored in versions if stored["document"] != versions[0]["document"]]
        if not older:
            raise SlurmextError("there is no earlier policy to go back to")
        version = older[0]
    stored = session.ask("policy", version=version)
    _propose(session, stored["document"], f"policy version {version}", dry_run=dry_run, immediate=immediate)


@cli.command("list", cls=Command, examples=[("slurmext policy list", "who applied what when, newest first")])
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@output_options
@click.pass_obj
def list_versions(session: Session, output: Output, limit: int) -> None:
    """List policy versions, newest first; the first line is in force."""
    output.rows(VERSIONS, session.ask("policies", limit=limit)["policies"], empty="no policy was applied yet")
