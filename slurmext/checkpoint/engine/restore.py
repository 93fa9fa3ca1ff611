"""A checkpoint into a program's own arrays and objects."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine import arrays, reader, tree
from slurmext.checkpoint.engine.arrays import Leaf
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.errors import BadCheckpointError, MismatchError
from slurmext.checkpoint.engine.manifest import Manifest
from slurmext.checkpoint.engine.reader import Want


class Restore:
    """What a rank takes out of one checkpoint: made from the manifest and the program's state, then filled.

    `template`: the state as the program has it; its arrays are filled in place. Arrays it does not have are new: those
    this rank saved as they were, whole ones where another number of ranks saved.
    Raises MismatchError and BadCheckpointError; nothing is changed before `fill`.
    """

    def __init__(self, folder: Path, manifest: Manifest, template: Any, *, rank: int, world: int) -> None:
        self._folder, self._manifest = folder, manifest
        self._resharded = len(manifest.parts) != world
        self._document = manifest.parts[rank if rank < len(manifest.parts) else 0].document
        self._wants: list[Want] = []
        self._values: list[Callable[[], Any]] = []
        try:
            tree.bind(self._document, template, self._ask)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadCheckpointError(f"its manifest cannot be understood ({error!r})") from error

    def check(self, crew: Crew) -> None:
        """Read and check what `fill` will read. Raises BadCheckpointError."""
        reader.fill(self._folder, self._manifest, self._wants, crew, check_only=True)

    def fill(self, crew: Crew) -> Any:
        """Fill the arrays; returns the state. Raises BadCheckpointError, with arrays partly overwritten."""
        reader.fill(self._folder, self._manifest, self._wants, crew)
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
