"""A checkpoint into a program's own arrays and objects."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine import arrays, reader, tree
from slurmext.checkpoint.engine.arrays import Leaf
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.errors import BadCheckpointError, MismatchError
from slurmext.checkpoint.engine.folder import Saved, saved_in
from slurmext.checkpoint.engine.identity import difference
from slurmext.checkpoint.engine.manifest import Manifest
from slurmext.checkpoint.engine.reader import Want


def places(directories: Iterable[Path]) -> dict[str, list[Saved]]:
    """Every checkpoint's name, newest first, with the folders that hold it, in the order of the directories."""
    found: dict[str, list[Saved]] = {}
    for directory in directories:
        for saved in saved_in(directory):
            found.setdefault(saved.path.name, []).append(saved)
    return dict(sorted(found.items(), key=lambda item: -item[1][0].serial))


def attempt(
    copies: Iterable[Saved], template: Any, *, rank: int, world: int, identity: str | None, careful: bool, crew: Crew,
    gather: Callable[[Saved, list[str]], None] | None = None,
) -> tuple[dict[str, Any], tuple[int, Any] | None, bool]:  # fmt: skip
    """What a rank says about a checkpoint, (step, state) when it is good, and whether arrays were written to.

    `copies`: folders with it, fastest first. `careful`: check before anything is written to, as no other one follows.
    `gather`: called with the files of a folder that are needed and nowhere, to get them there.
    """
    why, touched, found = "it is not there", False, list(copies)
    for number, saved in enumerate(found):
        try:
            manifest = saved.manifest()
            _refuse_other(saved, manifest, identity)
            # A faster place may have this node's files only; the others are read from where they are.
            folders = [copy.path for copy in found[number:]]
            work = Restore(folders, manifest, template, rank=rank, world=world)
            if gather is not None and (missing := work.missing()):
                gather(saved, missing)
            if careful and not saved.verified:
                work.check(crew)
            touched = True
            return {"ok": True}, (saved.step, work.fill(crew)), True
        except MismatchError as error:
            return {"mismatch": True, "why": str(error)}, None, touched
        except BadCheckpointError as error:
            why = str(error)
    return {"ok": False, "why": why}, None, touched


def first_problem(votes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The vote that decides: of another model, else damaged; None when all ranks have restored."""
    bad = [(rank, vote) for rank, vote in enumerate(votes) if not vote.get("ok")]
    bad.sort(key=lambda item: not item[1].get("mismatch"))
    if not bad:
        return None
    rank, vote = bad[0]
    return {**vote, "why": vote["why"] if len(votes) == 1 else f"rank {rank}: {vote['why']}"}


class Restore:
    """What a rank takes out of one checkpoint: made from the manifest and the program's state, then filled.

    `template`: the state as the program has it; its arrays are filled in place. Arrays it does not have are new: those
    this rank saved as they were, whole ones where another number of ranks saved.
    Raises MismatchError and BadCheckpointError; nothing is changed before `fill`.
    """

    def __init__(self, folders: Sequence[Path], manifest: Manifest, template: Any, *, rank: int, world: int) -> None:
        self._folders, self._manifest = folders, manifest
        self._resharded = len(manifest.parts) != world
        self._document = manifest.parts[rank if rank < len(manifest.parts) else 0].document
        self._wants: list[Want] = []
        self._values: list[Callable[[], Any]] = []
        try:
            tree.bind(self._document, template, self._ask)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadCheckpointError(f"its manifest cannot be understood ({error!r})") from error

    def missing(self) -> list[str]:
        """The files that `fill` will read and no folder has."""
        names = reader.packs_of(self._manifest, self._wants)
        return [name for name in names if not any((folder / name).exists() for folder in self._folders)]

    def check(self, crew: Crew) -> None:
        """Read and check what `fill` will read. Raises BadCheckpointError."""
        reader.fill(self._folders, self._manifest, self._wants, crew, check_only=True)

    def fill(self, crew: Crew) -> Any:
        """Fill the arrays; returns the state. Raises BadCheckpointError, with arrays partly overwritten."""
        reader.fill(self._folders, self._manifest, self._wants, crew)
        values = iter(self._values)
        try:
            return tree.unpack(self._document, lambda _: next(values)())
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadCheckpointError(f"its manifest cannot be understood ({error!r})") from error

    def _ask(self, document: tree.Document, held: Any, where: str) -> None:
        name = document["array"]
        if held is not None and not document.get("scalar"):
            leaf = arrays.leaf(held, where)
            if leaf.kind == "jax":
                self._new(document, where, lambda filled: _to_jax(filled, held))
            elif leaf.fortran != bool(document.get("fortran")):
                self._new(document, where, lambda filled: _copy_into(held, filled))
            else:
                if leaf.kind == "numpy" and not leaf.owner.flags.writeable:
                    raise MismatchError(f"{where} is read-only here and cannot be restored into; give a copy")
                self._wants.append(Want(name=name, leaf=leaf))
                self._values.append(lambda: held)
        else:
            self._new(
                document, where, (lambda filled: filled[()]) if document.get("scalar") else (lambda filled: filled)
            )

    def _new(self, document: tree.Document, where: str, finish: Callable[[Any], Any]) -> None:
        whole, part = document.get("whole"), document.get("offset")
        shape = whole if whole is not None and self._resharded else document["shape"]
        fortran = bool(document.get("fortran"))
        array = arrays.new_array(document.get("kind", "numpy"), document["dtype"], shape[::-1] if fortran else shape)
        leaf: Leaf = arrays.leaf(array, where)
        if whole is not None and not self._resharded:
            leaf.whole, leaf.offset = tuple(whole), tuple(part)
        self._wants.append(Want(name=document["array"], leaf=leaf))
        self._values.append(lambda: finish(array.T if fortran else array))


def _refuse_other(saved: Saved, manifest: Manifest, identity: str | None) -> None:
    theirs = manifest.info["identity"]
    other = difference(str(theirs), identity) if identity and theirs else None
    if other is not None:
        raise MismatchError(f"{saved.path} was saved with {other}; give this run its own directory with --ckpt-dir")


def _copy_into(held: Any, filled: Any) -> Any:
    target = held.local if isinstance(held, arrays.Sharded) else held
    if hasattr(target, "copy_"):
        target.detach().copy_(sys.modules["torch"].from_numpy(filled))
    else:
        target[...] = filled
    return held


def _to_jax(filled: Any, held: Any) -> Any:
    array = held.local if isinstance(held, arrays.Sharded) else held
    return sys.modules["jax"].device_put(filled, array.sharding)
