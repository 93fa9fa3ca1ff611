"""Where a job finds a model: staged on its node, or, when that failed, where the model is stored.

The TaskProlog sets both variables. `SLURMEXT_STAGED` lists directories, with colons between: those that hold staged
models (ROOT/org--model/REVISION), or one staged model itself (then its revision is meant by the name alone).
`SLURMEXT_PRELOAD_FALLBACK` lists `org/model@rev=/path`, with colons between, paths percent-encoded but for `/`; a path
alone is meant for whatever is asked for.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from slurmext.staging.errors import BadReference, NotStaged, StagingError
from slurmext.staging.names import OWN, ModelKey, parse_reference

log = logging.getLogger(__name__)

ROOTS: Final = "SLURMEXT_STAGED"
"""Environment variable: where staged models are."""
FALLBACK: Final = "SLURMEXT_PRELOAD_FALLBACK"
"""Environment variable: where models are stored whose staging failed."""
DEFAULT_ROOTS: Final = "/dev/shm/slurmext/models:/var/lib/slurmext/models"  # noqa: S108 - root's, read only
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory with a model's files; `staged` when an agent put it there, `complete` when all of it is there."""

    directory: Path
    staged: bool
    complete: bool = True


def fallback_text(storage: Mapping[ModelKey, Path]) -> str:
    """The value of SLURMEXT_PRELOAD_FALLBACK for these models."""
    return ":".join(f"{key}={quote(str(path), safe='/')}" for key, path in sorted(storage.items()))


def parse_fallback(text: str) -> dict[str, Path]:
    """Storage by reference (`org/model@rev`; empty for whatever is asked for). What makes no sense is left out."""
    found: dict[str, Path] = {}
    for entry in filter(None, text.split(":")):
        reference, equals, path = entry.rpartition("=")
        if not equals:
            reference, path = "", entry
        if path.startswith("/"):
            found[reference] = Path(unquote(path))
    return found


def locate(model: str | os.PathLike[str], *, roots: str | None = None, wait_s: float = 0.0) -> Place:
    """Where the files of `org/model`, `org/model@revision` or of a directory are; a complete staged model if possible.

    Waits up to `wait_s` for one that is being staged; then for a model that is not complete the fallback is taken, and
    said so. Raises NotStaged, BadReference.
    """
    directory = given_directory(model)
    reference = os.fspath(model)
    deadline_s = time.monotonic() + wait_s
    while True:
        place = given_place(directory) if directory is not None else find(reference, roots=roots)
        if place is not None and place.complete:
            return place
        if time.monotonic() >= deadline_s:
            return _instead(reference, place, searched(roots), None if directory else fallback(reference))
        time.sleep(_POLL_S)


def given_place(directory: Path) -> Place:
    """The place that a directory is."""
    return Place(directory=directory, staged=(directory / OWN).is_dir(), complete=is_complete(directory))


def find(reference: str, *, roots: str | None = None) -> Place | None:
    """A staged model, complete or not, in memory before on disk. Raises BadReference."""
    name, revision = parse_reference(reference)
    slug = name.replace("/", "--")
    partly: Place | None = None
    for root in map(Path, searched(roots)):
        one = (root / OWN).is_dir()
        found = [root] if one and root.parent.name == slug else [] if one else _revisions(root / slug)
        meant = [path for path in found if revision in {None, path.name}]
        whole = [path for path in meant if is_complete(path)]
        if len(whole) > 1:
            told = ", ".join(f"{name}@{path.name}" for path in whole)
            raise BadReference(f"{name} is here in several revisions: say which, {told}")
        if whole:
            return Place(directory=whole[0], staged=True)
        if meant and partly is None:
            partly = Place(directory=meant[0], staged=True, complete=False)
    return partly


def fallback(reference: str) -> Path | None:
    """Where the model is stored, as the TaskProlog says when its staging failed."""
    name, revision = parse_reference(reference)
    told = parse_fallback(os.environ.get(FALLBACK, ""))
    for key, path in told.items():
        known, _, of = key.partition("@")
        if (known == name and revision in {None, of}) or not key:
            return _snapshot(path, of or revision)
    return None


def given_directory(model: str | os.PathLike[str]) -> Path | None:
    """The directory, if not a name was given but a path. Raises NotStaged."""
    path = Path(model)
    if not (path.is_absolute() or isinstance(model, Path) or str(model).startswith(".")):
        return None
    if not path.is_dir():
        raise NotStaged(f"{path} is no directory")
    return path


def searched(roots: str | None = None) -> list[str]:
    """Directories in which models are looked for; where nobody named one, root's only, since /dev/shm is anyone's."""
    told = roots or os.environ.get(ROOTS)
    return [root for root in (told or DEFAULT_ROOTS).split(":") if root and (told or _is_roots(root))]


def is_complete(directory: Path) -> bool:
    """Whether every chunk of a staged model is good; True of a directory that is none."""
    # 64 bytes of head, then a byte for each chunk (slurmext.staging.store.ready).
    try:
        with (directory / OWN / "ready").open("rb") as file:
            head = file.read(64)
            count = int.from_bytes(head[8:12], "little")
            return head.startswith(b"sxready1") and file.read(count).count(1) == count
    except OSError:
        return not (directory / OWN).is_dir()


def in_memory(directory: Path) -> bool:
    """Whether files there are memory already."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    place = str(directory.resolve())
    within = [row for row in mounts if place == row[1] or place.startswith(row[1].rstrip("/") + "/")]
    return bool(within) and max(within, key=lambda row: len(row[1]))[2] in {"tmpfs", "hugetlbfs", "ramfs"}


def _instead(reference: str, place: Place | None, looked: Sequence[str], stored: Path | None) -> Place:
    if stored is not None:
        log.warning("%s is not staged on this node: reading it from %s", reference, stored)
        return Place(directory=stored, staged=False)
    if place is not None:
        raise NotStaged(f"{place.directory} is not complete: wait for it (wait_s=), or stage it again")
    raise NotStaged(f"{reference} is not on this node (looked in {', '.join(looked)}): sbatch --preload={reference}")


def _is_roots(directory: str) -> bool:
    try:
        return os.lstat(directory).st_uid in {0, os.geteuid()}
    except OSError:
        return True  # it is looked for, and not there


def _revisions(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _snapshot(path: Path, revision: str | None) -> Path:
    """The files of a hub's cache (`models--org--name`); any other directory is what it is."""
    if not (path / "snapshots").is_dir():
        return path
    for name in (revision, "main"):
        if name is None:
            continue
        try:
            name = (path / "refs" / name).read_text(encoding="ascii").strip()  # noqa: PLW2901
        except (OSError, ValueError):
            pass
        if (path / "snapshots" / name).is_dir():
            return path / "snapshots" / name
    raise StagingError(f"{path} has no snapshot of revision {revision or 'main'}: import the model again")
