"""Reading a model's files for `slurmext model import` and `verify`, and sending manifests in parts; with a bar."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slurmext.errors import SlurmextError
from slurmext.staging.hub import PREFIX, hub_source
from slurmext.staging.importer import Imported, import_model
from slurmext.staging.manifest import Manifest, parse_manifest
from slurmext.staging.tree import find_tree

if TYPE_CHECKING:
    from slurmext.cli.session import Session

_PART_BYTES = 45_000
"""Of a manifest in one question, which may have 64 KiB."""


def read_model(text: str, name: str, revision: str | None, *, download: bool = False) -> Imported:
    """Read and check the files at a path (or `hub:org/name`), with a bar where a person looks. Raises BadModel."""
    path = hub_source(text, revision, download=download) if text.startswith(PREFIX) else Path(text)
    tree, _ = find_tree(path, revision)
    total = 0
    for file in tree.names:
        with tree.open(file) as descriptor:
            total += os.fstat(descriptor).st_size
    with bar(f"reading {path.name}", total) as advance:
        return import_model(path, name, revision, on_bytes=advance)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes on standard error; nothing where no person looks."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True),
               TransferSpeedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def upload(session: Session, manifest: Manifest) -> str:
    """Send a manifest; returns its fingerprint."""
    raw, fingerprint = manifest.dump(), manifest.fingerprint()
    with bar("registering", len(raw)) as advance:
        for at in range(0, len(raw), _PART_BYTES):
            part = raw[at : at + _PART_BYTES]
            data = base64.b64encode(part).decode()
            session.ask("model_upload", fingerprint=fingerprint, at=at, data=data)
            advance(len(part))
    return fingerprint


def download(session: Session, reference: str) -> Manifest:
    """The manifest that is registered for a model."""
    raw, answer = b"", session.ask("model_manifest", model=reference, at=0)
    reference = answer["reference"]
    while True:
        raw += base64.b64decode(answer["data"])
        if len(raw) >= answer["size"]:
            return parse_manifest(raw, fingerprint=answer["fingerprint"])
        if not answer["data"]:
            raise SlurmextError(f"the manifest of {reference} broke off: try again")
        answer = session.ask("model_manifest", model=reference, at=len(raw))


def differences(registered: Manifest, found: Manifest) -> list[dict[str, Any]]:
    """What is not as it was registered, file by file."""
    before = {entry.name: entry for entry in registered.files}
    now = {entry.name: entry for entry in found.files}
    rows = list[dict[str, Any]]()
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None:
            rows.append({"name": name, "problem": "was not there when it was imported"})
        elif new is None:
            rows.append({"name": name, "problem": "is missing"})
        elif (old.size, old.sha256) != (new.size, new.sha256):
            what = f"has {new.size} bytes, not {old.size}" if old.size != new.size else "has other bytes"
            rows.append({"name": name, "problem": what})
    return rows


def say(text: str) -> None:
    """A line for people, on standard error."""
    click.echo(text, err=True)
