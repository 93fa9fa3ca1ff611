"""`slurmext ckpt`: checkpoints, those that jobs confirmed and those in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.ckpt_interval import DIRECTORY, estimate, why
from slurmext.cli.completing import complete_job, complete_job_or_directory
from slurmext.cli.formats import moment, size
from slurmext.cli.render import Column, Output, confirm, immediate_option, json_option, output_options
from slurmext.errors import UsageError
from slurmext.model.amounts import counted

if TYPE_CHECKING:
    from slurmext.cli.ckpt_files import Found
    from slurmext.cli.session import Session

COLUMNS = (
    Column(key="job_id", title="JobID"),
    Column(key="step", title="Step", right=True),
    Column(key="saved_s", title="Saved", show=moment),
    Column(key="size_bytes", title="Size", show=size, right=True),
    Column(key="node", title="Node"),
    Column(key="path", title="Path"),
    Column(key="confirmed_s", title="Confirmed", show=moment, shown=False),
)
FILES = (
    Column(key="name", title="Checkpoint"),
    Column(key="step", title="Step", right=True),
    Column(key="saved_s", title="Saved", show=moment),
    Column(key="size_bytes", title="Size", show=size, right=True),
    Column(key="ranks", title="Ranks", right=True),
    Column(key="host", title="Host"),
    Column(key="job", title="Job", shown=False),
    Column(key="kind", title="Kind", shown=False),
    Column(key="verified", title="Verified", shown=False),
    Column(key="problem", title="Problem"),
    Column(key="path", title="Path", shown=False),
)
VERIFIED = (*FILES[:-2], Column(key="state", title="State"), *FILES[-2:])
COPIES = (
    Column(key="name", title="Copy"),
    Column(key="tier", title="Tier"),
    Column(key="node", title="Node"),
    Column(key="size_bytes", title="Size", show=size, right=True),
    Column(key="done", title="Done", right=True),
    Column(key="at_s", title="As of", show=moment),
)
TARGET = click.Path(path_type=Path, file_okay=False, resolve_path=True)


@click.group(cls=Group)
def cli() -> None:
    """Checkpoints: those that jobs confirmed, and those in a directory."""


@cli.command(
    "list",
    cls=Command,
    examples=[
        ("slurmext ckpt list", "newest first"),
        ("slurmext ckpt list --job 41 -nP -o Path", "where job 41's are"),
    ],
)
@click.option("-j", "--job", metavar="JOB", shell_complete=complete_job, help="Only this job's.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@output_options
@click.pass_obj
def list_checkpoints(session: Session, output: Output, job: str | None, limit: int) -> None:
    """List checkpoints that jobs confirmed, newest first: root sees all, others their own jobs'."""
    found = session.ask("checkpoints", job=job, limit=limit)["checkpoints"]
    if job is not None and not found:
        session.ask("job_show", job=job)  # one that is not known, or not yours, is told so
    empty = "no checkpoint was confirmed yet"
    if job is not None and not found:
        copies = session.ask("ckpt_copies", job=job)["copies"]
        elsewhere = f"; 'slurmext ckpt show {job}' has what it saved in nodes' memory" if copies else ""
        empty = f"job {job} has confirmed no checkpoint yet{elsewhere}"
    output.rows(COLUMNS, found, empty=empty)


@cli.command(
    "show",
    cls=Command,
    examples=[
        ("slurmext ckpt show slurmext-ckpt/41", "what is in this directory; needs no daemon"),
        ("slurmext ckpt show 41", "copies of job 41's checkpoints in nodes' memory, and how far they are"),
        ("slurmext ckpt show /scratch/run7 --json", "the same as data"),
    ],
    exit_codes={1: "there is none, or no such job of yours"},
)
@click.argument("target", metavar="DIRECTORY|JOB", shell_complete=complete_job_or_directory)
@output_options
@click.pass_context
def show(ctx: click.Context, output: Output, target: str) -> None:
    """Show the checkpoints in a DIRECTORY, or the copies of a JOB's checkpoints in memory."""
    if _is_job(target):
        copies: list[dict[str, Any]] = ctx.obj.ask("ckpt_copies", job=target)["copies"]
        rows = [{**copy, "done": f"{100 * copy['done_bytes'] // max(1, copy['size_bytes'])} %"} for copy in copies]
        output.rows(COPIES, rows, empty=f"no node has a copy of a checkpoint of job {target} in memory; "
                    f"'slurmext ckpt list --job {target}' has the paths of those on disk")  # fmt: skip
    else:
        from slurmext.cli.ckpt_files import found_in

        rows = [found.row(Path(target)) for found in found_in(Path(target))]
        output.rows(FILES, rows, empty=f"no checkpoint is in {target}")
    if not rows:
        ctx.exit(1)


def _is_job(target: str) -> bool:
    return target[:1].isdigit() and not Path(target).exists()


def _directory_of(session: Session, target: str) -> Path:
    """The directory that is named, or where the named job confirmed its last checkpoint. Raises SlurmextError."""
    if not _is_job(target):
        return Path(target).resolve()
    found = session.ask("checkpoints", job=target, limit=1)["checkpoints"]
    if not found:
        session.ask("job_show", job=target)  # one that is not known, or not yours, is told so
        raise UsageError(
            f"job {target} has confirmed no checkpoint; name the directory it saves in (its --ckpt-dir, else"
            f" slurmext-ckpt/{target} where it was submitted)"
        )
    return Path(found[0]["path"]).parent


@cli.command(
    "verify",
    cls=Command,
    examples=[
        ("slurmext ckpt verify /scratch/run7", "read every checkpoint there to its last byte"),
        ("slurmext ckpt verify 41", "those in the directory where job 41 saved last"),
        ("slurmext ckpt verify /scratch/run7/save-00000003-step-900", "only this one"),
    ],
    exit_codes={1: "a checkpoint is damaged, or there is none"},
)
@click.argument("target", metavar="DIRECTORY|JOB", shell_complete=complete_job_or_directory)
@output_options
@click.pass_context
def verify(ctx: click.Context, output: Output, target: str) -> None:
    """Read every byte of the checkpoints in DIRECTORY, or of a JOB, and say which are good.

    For a directory no daemon is needed.
    """
    from slurmext.cli import ckpt_files

    rows, directory = [], _directory_of(ctx.obj, target)
    for found in ckpt_files.found_in(directory):
        problem = ckpt_files.verify(found)
        rows.append({**found.row(directory), "verified": problem is None, "problem": problem,
                     "state": "good" if problem is None else "damaged"})  # fmt: skip
    output.rows(VERIFIED, rows, empty=f"no checkpoint is in {directory}")
    if not rows or any(not row["verified"] for row in rows):
        ctx.exit(1)


@cli.command(
    "prune",
    cls=Command,
    examples=[
        ("slurmext ckpt prune /scratch/run7 --keep 2 --dry-run", "what would go"),
        ("slurmext ckpt prune /scratch/run7 --keep 1 -i", "keep the newest good one, without asking"),
    ],
    exit_codes={1: "a job uses the directory, or too few are good"},
)
@click.argument("directory", type=DIRECTORY)
@click.option("--keep", type=click.IntRange(min=1), default=2, show_default=True, help="So many good ones stay.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@immediate_option
@json_option
@click.pass_obj
def prune(session: Session, directory: Path, keep: int, *, dry_run: bool, immediate: bool, as_json: bool) -> None:
    """Remove all but the newest good checkpoints in DIRECTORY. Those that stay are read to the end first.

    In a directory that tasks of an array share, each task keeps its own newest.
    """
    from slurmext.cli import ckpt_files

    ckpt_files.require_own(directory, session.uid)
    found = ckpt_files.found_in(directory)
    stays, goes = ckpt_files.to_prune(found, keep)
    for place, here in ckpt_files.by_folder(found).items():
        good = sum(one in stays for one in here)
        if good < min(keep, len(here)):
            told_of = f"only {good} of {len(here)} checkpoints in {place} are good: none of them goes"
            if not goes:
                raise ckpt_files.FilesError(told_of)
            click.echo(f"slurmext: {told_of}", err=True)
    names = {"stays": [one.named(directory) for one in stays], "goes": [one.named(directory) for one in goes]}
    if dry_run or not goes:
        if not Output(as_json=as_json).value({**names, "removed": False}):
            click.echo("\n".join([f"{what:5}  {name}" for what, which in names.items() for name in which]))
        return
    what = counted(len(goes), "checkpoint")
    confirm(f"remove {what} of {directory} ({', '.join(names['goes'])})?", immediate=immediate)
    ckpt_files.remove(goes)
    if not Output(as_json=as_json).value({**names, "removed": True}):
        click.echo(f"{what} removed, kept: {', '.join(names['stays'])}")


@cli.command(
    "restore",
    cls=Command,
    examples=[
        ("slurmext ckpt restore /scratch/run7 --step 900", "the next run begins there; newer ones are put aside"),
        ("slurmext ckpt restore /scratch/run7 --step 900 --to /scratch/run8", "branch off: copy it for another run"),
        ("slurmext ckpt restore /scratch/run7 --to /scratch/run8 --dry-run", "which one would be copied"),
    ],
    exit_codes={1: "there is no such checkpoint, it is damaged, or a job uses the directory"},
)
@click.argument("directory", type=DIRECTORY)
@click.option("--step", type=click.IntRange(min=0), help="That of this step; the newest good one without it.")
@click.option("--to", "target", type=TARGET, metavar="DIRECTORY", help="Copy it there instead.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@immediate_option
@json_option
@click.pass_obj
def restore(
    session: Session,
    directory: Path,
    step: int | None,
    target: Path | None,
    *,
    dry_run: bool,
    immediate: bool,
    as_json: bool,
) -> None:
    """Have the next run begin from an older checkpoint in DIRECTORY, or copy one for another run."""
    from slurmext.cli import ckpt_files

    directory, only = ckpt_files.folder_and_name(directory)
    ckpt_files.require_own(directory, session.uid)
    everything = ckpt_files.found_in(directory)
    found = [one for one in everything if one.kind == "library"]
    if everything and not found:
        raise UsageError(f"{directory} has what --ckpt=transparent saved: its next run takes the newest by itself")
    if len(folders := sorted(ckpt_files.by_folder(found))) > 1:
        raise UsageError(f"{directory} has checkpoints of {len(folders)} tasks; name one of them, as {folders[0]}")
    chosen = _chosen([one for one in found if only in {None, one.path.name}], step, directory)
    newer = [one for one in found if one.serial > chosen.serial]
    told: dict[str, object] = {"restore": chosen.path.name, "aside": [] if target else [one.path.name for one in newer]}
    if not dry_run:
        if target is None and newer:
            names = ", ".join(one.path.name for one in newer)
            confirm(f"put aside {names}, so that the next run begins from {chosen.path.name}?", immediate=immediate)
            told["aside_in"] = str(ckpt_files.set_aside(chosen.path.parent, newer))
        elif target is not None:
            told["copy"] = str(ckpt_files.copy_to(chosen, target))
    if Output(as_json=as_json).value({**told, "done": not dry_run}):
        return
    if target is not None:
        click.echo(f"{chosen.path.name} {'would be' if dry_run else 'is'} copied to {target}")
        return
    aside = f"; {len(newer)} newer put aside in {chosen.path.parent / ckpt_files.ASIDE}" if newer else ""
    click.echo(f"the next run {'would begin' if dry_run else 'begins'} from {chosen.path.name}{aside}")


def _chosen(found: list[Found], step: int | None, directory: Path) -> Found:
    """The checkpoint of that step, or the newest good one; read to the end. Raises FilesError."""
    from slurmext.cli import ckpt_files

    for one in found:
        if step is not None and one.step != step:
            continue
        problem = ckpt_files.verify(one)
        if problem is None:
            return one
        if step is not None:
            raise ckpt_files.FilesError(f"{one.path} is damaged: {problem}")
    steps = ", ".join(str(one.step) for one in found) or "none"
    wanted = "good checkpoint" if step is None else f"checkpoint of step {step}"
    raise ckpt_files.FilesError(f"{directory} has no {wanted}; steps there: {steps}")


cli.add_command(estimate)
cli.add_command(why)
