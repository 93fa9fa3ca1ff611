"""`slurmext model`: models that can be staged, who may read them, and where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.completing import complete_model
from slurmext.cli.formats import moment, size
from slurmext.cli.model_nodes import evict, pin, stage, unpin
from slurmext.cli.model_options import dry_run_option, expanded, model_argument, nodes_option, told
from slurmext.cli.render import (
    Column,
    Output,
    confirm,
    immediate_option,
    json_option,
    output_options,
    pairs,
    print_json,
)
from slurmext.errors import UsageError
from slurmext.model.amounts import counted

if TYPE_CHECKING:
    from slurmext.cli.session import Session


def _count(value: object) -> str:
    return str(len(value)) if isinstance(value, list) else ""


def _names(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else ""


def _percent(value: object) -> str:
    return f"{value:.0f}%" if isinstance(value, int | float) else ""


COLUMNS = (
    Column(key="model", title="Model"),
    Column(key="revision", title="Revision"),
    Column(key="owner", title="Owner"),
    Column(key="access", title="ReadBy"),
    Column(key="size", title="Size", show=size, right=True),
    Column(key="new_bytes", title="New", show=size, right=True),
    Column(key="nodes", title="Nodes", show=_count, right=True),
    Column(key="arriving", title="Arriving", show=_count, right=True),
    Column(key="created_s", title="Registered", show=moment),
    Column(key="newest", title="Newest", shown=False),
    Column(key="pinned_nodes", title="Pinned", show=_names, shown=False),
    Column(key="shared_with", title="SharedWith", shown=False),
    Column(key="reference", title="Reference", shown=False),
    Column(key="storage", title="Storage", shown=False),
    Column(key="files", title="Files", right=True, shown=False),
    Column(key="chunks", title="Chunks", right=True, shown=False),
    Column(key="fingerprint", title="Fingerprint", shown=False),
)
WHERE_COLUMNS = (
    Column(key="reference", title="Model"),
    Column(key="node", title="Node"),
    Column(key="tier", title="Tier"),
    Column(key="state", title="State"),
    Column(key="percent", title="Here", show=_percent, right=True),
    Column(key="size", title="Size", show=size, right=True),
    Column(key="held", title="HeldBy", right=True),
    Column(key="pins", title="Holders", show=_names, shown=False),
    Column(key="why", title="Why"),
)
FILE_COLUMNS = (
    Column(key="name", title="File"),
    Column(key="size", title="Size", show=size, right=True),
    Column(key="kind", title="Kind"),
    Column(key="chunks", title="Chunks", right=True),
    Column(key="sha256", title="SHA256"),
)
PROBLEM_COLUMNS = (Column(key="name", title="File"), Column(key="problem", title="Problem"))


@click.group("model", cls=Group)
def cli() -> None:
    """Models that can be staged: sbatch --preload=org/model."""


for _command in (stage, pin, unpin, evict):
    cli.add_command(_command)


@cli.command(
    "import",
    cls=Command,
    examples=[
        ("slurmext model import /shared/llama org/llama@v1", "register a directory of safetensors; you alone read it"),
        ("slurmext model import --group nlp model.gguf org/small", "one file, for your group; revision by content"),
        ("slurmext model import hub:org/llama org/llama", "from the hub's cache; --download fetches it first"),
        ("slurmext model import --dry-run /shared/llama org/llama", "only check the files"),
    ],
)
@click.argument("path")
@click.argument("model", metavar="MODEL")
@click.option("--group", metavar="GROUP", help="This group, which you are in, may read it as well.")
@click.option("--public", is_flag=True, help="Everyone may read it.")
@click.option("--download", is_flag=True, help="Of hub:org/model: fetch it into the hub's cache first.")
@dry_run_option
@json_option
@click.pass_obj
def import_model(
    session: Session, *, path: str, model: str, group: str | None, public: bool, download: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Read a model's files once, check them, and register them as MODEL.

    MODEL is a name of one to three parts joined by '/', such as org/llama, or such a name and @revision. PATH is a
    directory, a file, a model of the hub's cache, or hub:org/name. It must lie where the nodes see it too: it stays
    there, and is read there with your rights. A revision never changes; without one it is the hub's, else made from
    the content. The name is yours from then on.
    """
    from slurmext.cli.model_files import read_model, say, upload
    from slurmext.staging.names import parse_reference

    name, revision = parse_reference(model)
    imported = read_model(path, name, revision, download=download)
    fingerprint = upload(session, imported.manifest)
    answer = session.ask(
        "model_register", fingerprint=fingerprint, storage=str(imported.tree.root), group=group,
        public=public or None, dry_run=dry_run or None,
    )  # fmt: skip
    if as_json:
        print_json(answer)
        return
    parts = f"{counted(answer['files'], 'file')}, {size(answer['size'])}"
    if answer["shared_bytes"]:
        shared = size(answer["shared_bytes"])
        parts += f", {shared} of it {_as_in(answer['shared_with'])}"
    verb = "was registered before" if answer["already"] else "could be registered" if dry_run else "is registered"
    click.echo(f"{answer['reference']} {verb}: {parts}")
    if answer["storage_before"]:
        moved = "would then be read" if dry_run else "is now read"
        click.echo(f"it {moved} from {answer['storage']}, no longer from {answer['storage_before']}")
    room = answer["largest_room"]
    if room is not None and answer["size"] > room:
        say(f"no node has room for it in memory (the most: {size(room)}): jobs will read it from {answer['storage']}")
    elif not dry_run:
        say(f"use it: sbatch --preload={answer['reference']}")


def _as_in(reference: str) -> str:
    return f"as in {reference}" if reference else "as in other models"


@cli.command(
    "list",
    cls=Command,
    examples=[
        ("slurmext model list", "models you may read"),
        ("slurmext model list org/llama -o Revision,New,SharedWith", "its revisions, and what each adds"),
        ("slurmext model list -nP -o Reference", "for a script"),
    ],
)
@click.argument("model", required=False, metavar="[MODEL]")
@click.option("-u", "--user", metavar="USER", help="Only this owner's.")
@output_options
@click.pass_obj
def list_models(session: Session, output: Output, *, model: str | None, user: str | None) -> None:
    """List models that you may read. New is what a revision adds to those registered before it."""
    rows = session.ask("models", model=model, user=user)["models"]
    output.rows(COLUMNS, rows, empty="no model is registered that you may read ('slurmext model import --help')")


@cli.command(
    "show",
    cls=Command,
    examples=[
        ("slurmext model show org/llama", "its newest revision: files, who may read it, where it is"),
        ("slurmext model show org/llama@v1 --json", "as data"),
    ],
)
@model_argument
@json_option
@click.pass_obj
def show(session: Session, *, model: str, as_json: bool) -> None:
    """Show one revision: without @REVISION the one registered last."""
    answer = session.ask("model_show", model=model)
    if as_json:
        print_json(answer)
        return
    shared = answer["shared_bytes"]
    pairs(
        [
            ("Model", answer["reference"]),
            ("Owner", answer["owner"]),
            ("Read by", answer["access"]),
            ("Size", f"{size(answer['size'])} in {counted(answer['chunks'], 'chunk')}"),
            *([("Shared", f"{size(shared)} {_as_in(answer['shared_with'])}")] if shared else []),
            ("Storage", answer["storage"]),
            ("Registered", moment(answer["created_s"])),
            ("Fingerprint", answer["fingerprint"]),
            *([("Pinned on", _names(answer["pinned_nodes"]))] if answer["pinned_nodes"] else []),
        ]
    )
    click.echo()
    Output().rows(FILE_COLUMNS, answer["contents"])
    if answer["replicas"]:
        click.echo()
        Output().rows(WHERE_COLUMNS[1:], answer["replicas"])


@cli.command(
    "where",
    cls=Command,
    examples=[
        ("slurmext model where", "what is on which node"),
        ("slurmext model where org/llama", "how far its newest revision is on each node"),
    ],
)
@click.argument("model", required=False, metavar="[MODEL]", shell_complete=complete_model)
@output_options
@click.pass_obj
def where(session: Session, output: Output, *, model: str | None) -> None:
    """List copies on nodes: of one model, or of all that you may read."""
    output.rows(WHERE_COLUMNS, session.ask("model_where", model=model)["replicas"], empty="no node has any of it")


@cli.command(
    "verify",
    cls=Command,
    examples=[
        ("slurmext model verify org/llama", "are its files on storage still what was imported? Run as you"),
        ("slurmext model verify org/llama -w n[1-8]", "have agents check every chunk they hold"),
    ],
    exit_codes={1: "failed, or something is not as it was"},
)
@model_argument
@nodes_option
@output_options
@click.pass_obj
def verify(session: Session, output: Output, *, model: str, nodes: str | None) -> None:
    """Read a model's files on storage again and compare every byte's checksum; with -w the copies on nodes.

    What is bad on a node is forgotten there and fetched again when it is next needed.
    """
    if nodes is not None:
        answer = session.ask("model_verify", model=model, nodes=expanded(nodes))
        told(answer, "is being checked on", as_json=output.as_json)
        if not output.as_json:
            click.echo(f"what comes of it: slurmext model where {answer['reference']}")
        return
    from slurmext.cli.model_files import differences, download, read_model

    shown = session.ask("model_show", model=model)
    registered = download(session, shown["reference"])
    found = read_model(shown["storage"], registered.key.name, registered.key.revision)
    rows = differences(registered, found.manifest)
    if rows or output.as_json:
        output.rows(PROBLEM_COLUMNS, rows)
    else:
        files = counted(len(registered.files), "file")
        click.echo(f"{registered.key}: {files}, {size(registered.size)}, all as they were imported")
    if rows:
        raise SystemExit(1)


@cli.command(
    "share",
    cls=Command,
    examples=[
        ("slurmext model share org/llama --group nlp", "your group may read it"),
        ("slurmext model share org/llama --public", "everyone may"),
        ("slurmext model share org/llama --private", "you alone, from now on"),
    ],
)
@model_argument
@click.option("--group", metavar="GROUP", help="This group, which you are in.")
@click.option("--public", is_flag=True, help="Everyone.")
@click.option("--private", is_flag=True, help="Its owner alone.")
@dry_run_option
@json_option
@click.pass_obj
def share(
    session: Session, *, model: str, group: str | None, public: bool, private: bool, dry_run: bool, as_json: bool
) -> None:
    """Change who may read a revision of yours. Nodes that have it are told within a moment."""
    if [group is not None, public, private].count(True) != 1:
        raise UsageError("with whom? one of --group GROUP, --public, --private")
    answer = session.ask("model_share", model=model, group=group, public=public or None, dry_run=dry_run or None)
    if as_json:
        print_json(answer)
        return
    whom = "everyone" if public else f"group {group}" if group else "its owner alone"
    click.echo(f"{answer['reference']} {'would be' if dry_run else 'is'} read by {whom}")


@cli.command(
    "remove",
    cls=Command,
    examples=[
        ("slurmext model remove org/llama@v1", "forget this revision; its files on storage stay"),
        ("slurmext model remove --dry-run org/llama@v1", "show what would go"),
    ],
)
@model_argument
@immediate_option
@dry_run_option
@json_option
@click.pass_obj
def remove(session: Session, *, model: str, immediate: bool, dry_run: bool, as_json: bool) -> None:
    """Forget a revision of yours. Copies go where no job uses them; its files on storage are not touched."""
    answer: dict[str, Any] = session.ask("model_remove", model=model, dry_run=True)
    if not dry_run:
        confirm(f"Forget {answer['reference']}? Jobs that wait for it will not find it.", immediate=immediate)
        answer = session.ask("model_remove", model=answer["reference"])
    if as_json:
        print_json(answer)
        return
    verb, copies = ("would be", "would go") if dry_run else ("is", "go")
    click.echo(f"{answer['reference']} {verb} forgotten; {answer['storage']} stays")
    if answer["nodes"]:
        click.echo(f"its copies on {counted(len(answer['nodes']), 'node')} {copies}, once no running job uses them")
