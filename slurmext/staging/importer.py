"""Import: read every file once, check it, and write down what it consists of."""

from __future__ import annotations

import hashlib
import mmap
import os
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import xxhash

from slurmext.staging.errors import BadModel
from slurmext.staging.forward import forward_order
from slurmext.staging.manifest import ANCHOR_BYTES, CHUNK_BYTES, FileEntry, FileKind, Manifest, cuts
from slurmext.staging.names import ModelKey, check_name
from slurmext.staging.safetensors import Header, read_header
from slurmext.staging.tree import SourceTree, find_tree

_BLOCK: Final = 16 * CHUNK_BYTES
_HASHERS: Final = min(8, (os.cpu_count() or 1) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A manifest and the files it describes."""

    manifest: Manifest
    tree: SourceTree


def import_model(
    path: Path, name: str, revision: str | None = None, *, on_bytes: Callable[[int], None] = lambda _count: None
) -> Imported:
    """Read and check a directory, a file or a model of a hub cache; several files at once.

    Without a revision it is the hub's, else derived from the content: the same files give the same revision.
    `on_bytes` hears of bytes read, from several threads. Raises BadModel.
    """
    check_name(name)
    tree, found = find_tree(path, revision)
    with ThreadPoolExecutor(_HASHERS, thread_name_prefix="import") as pool:
        parts = list(pool.map(lambda file: _read(tree, file, on_bytes), tree.names))
    lengths = array("I")
    for _, file_lengths, _, _ in parts:
        lengths.extend(file_lengths)
    entries = tuple(entry for entry, _, _, _ in parts)
    manifest = Manifest(
        key=ModelKey(name, revision or found or _revision_of(entries)),
        files=entries,
        lengths=lengths,
        digests=b"".join(digests for _, _, digests, _ in parts),
    )
    manifest = replace(manifest, order=forward_order(manifest, [header for _, _, _, header in parts]))
    return Imported(manifest=manifest, tree=tree)


def _revision_of(entries: tuple[FileEntry, ...]) -> str:
    told = "\n".join(f"{entry.sha256} {entry.size} {entry.name}" for entry in entries)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _read(
    tree: SourceTree, name: str, on_bytes: Callable[[int], None]
) -> tuple[FileEntry, list[int], bytes, Header | None]:
    label = str(tree.root if tree.single else tree.root / name)
    with tree.open(name) as descriptor:
        before = os.fstat(descriptor)
        size = before.st_size
        kind, anchors, header = _inside(descriptor, name, size, label)
        lengths = list(cuts(size, anchors))
        whole = hashlib.sha256()
        digests: list[bytes] = []
        block = memoryview(mmap.mmap(-1, _BLOCK + CHUNK_BYTES))
        at = 0
        for begin, end, wanted in _blocks(lengths):
            piece = block[:wanted]
            if _fill(descriptor, piece, at) != wanted:
                raise BadModel(f"{label} became shorter while it was read: import it when nothing writes to it")
            whole.update(piece)
            edges = [0, *accumulate(lengths[begin:end])]
            digests += [xxhash.xxh3_128_digest(piece[low:high]) for low, high in pairwise(edges)]
            at += wanted
            on_bytes(wanted)
        after = os.fstat(descriptor)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise BadModel(f"{label} changed while it was read: import it when nothing writes to it")
    return FileEntry(name=name, size=size, sha256=whole.hexdigest(), kind=kind), lengths, b"".join(digests), header


def _blocks(lengths: list[int]) -> list[tuple[int, int, int]]:
    """Runs of chunks (first, end, bytes) of about a block each."""
    runs: list[tuple[int, int, int]] = []
    first = total = 0
    for index, length in enumerate(lengths):
        total += length
        if total >= _BLOCK or index == len(lengths) - 1:
            runs.append((first, index + 1, total))
            first, total = index + 1, 0
    return runs


def _inside(descriptor: int, name: str, size: int, label: str) -> tuple[FileKind, list[int], Header | None]:
    if not name.endswith(".safetensors"):
        return FileKind.OPAQUE, [], None
    with os.fdopen(os.dup(descriptor), "rb") as file:
        header = read_header(file, size, label)
    large = [tensor.begin for tensor in header.tensors if tensor.end - tensor.begin >= ANCHOR_BYTES]
    return FileKind.SAFETENSORS, [header.data_begin, *large] if large else [], header


def _fill(descriptor: int, view: memoryview, offset: int) -> int:
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            break
        done += count
    return done
