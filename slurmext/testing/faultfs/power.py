"""What a disk may hold after a power cut: a recorded run, replayed up to a point, less what was not made durable.

Data is durable once its file was synced, a name once its directory was (fsync(2)). What came later may be there or not:
a file system may keep it in order (`ORDERED` names), or any of it (`ANY`).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath

_HEAD = struct.Struct("=6Q")
CREATE, WRITE, FSYNC, FTRUNCATE, FALLOCATE, RENAME, LINK, MKDIR, UNLINK, RMDIR, MARK = range(1, 12)


class Loss(Enum):
    """What of the things not made durable is gone."""

    ALL = "everything"
    ORDERED = "names after some moment, and any data"
    ANY = "any names and any data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One recorded operation. `other`: the second name; `inode`: of the file behind a descriptor."""

    kind: int
    path: str
    other: str
    inode: int
    offset: int
    size: int
    data: bytes


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Op] = field(default_factory=list)


def read_trace(path: Path) -> list[Op]:
    """The operations of a recorded run."""
    content = path.read_bytes()
    ops: list[Op] = []
    at = 0
    while at < len(content):
        kind, first, second, inode, offset, size = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        name = content[at : at + first].decode()
        other = content[at + first : at + first + second].decode()
        at += first + second
        data = content[at : at + size] if kind == WRITE else b""
        at += len(data)
        ops.append(Op(kind=kind, path=name, other=other, inode=inode, offset=offset, size=size, data=data))
    return ops


class Disk:
    """A directory tree as a disk has it: names that are durable, and operations that are not yet."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: dict[int, _File] = {}
        self._inodes: dict[int, int] = {}
        """The recorded inode numbers now in use, as numbers of ours: the former come again."""
        self._names: dict[str, int] = {}
        """What the running system sees: 0 for a directory."""
        self._durable: dict[str, int] = {}
        self._pending: list[tuple[Op, int]] = []
        """Changes of names not durable yet, with the file meant."""

    def apply(self, op: Op) -> None:
        """One more operation has happened."""
        if op.kind in {CREATE, MKDIR, RENAME, LINK, UNLINK, RMDIR}:
            number = 0
            if op.kind == CREATE:
                number = len(self._files) + 1
                self._files[number] = _File()
                self._inodes[op.inode] = number
            elif op.kind == LINK:
                number = self._names[op.path]
            _change(self._names, op, number)
            self._pending.append((op, number))
        elif op.kind in {WRITE, FTRUNCATE, FALLOCATE}:
            self._files[self._inodes[op.inode]].pending.append(op)
        elif op.kind == FSYNC:
            number = self._inodes.get(op.inode)
            if op.path.rstrip("/") == self._root or self._names.get(op.path) == 0:
                self._sync_directory(op.path.rstrip("/"))
            elif number is not None:
                file = self._files[number]
                for change in file.pending:
                    _write(file.durable, change)
                file.pending.clear()

    def after_power_cut(self, loss: Loss, chance: random.Random) -> tuple[dict[str, int], dict[int, bytes]]:
        """(names, contents) as they may be found; see Loss."""
        names = dict(self._durable)
        if loss is Loss.ORDERED:
            kept = self._pending[: chance.randrange(len(self._pending) + 1)]
        elif loss is Loss.ANY:
            kept = [change for change in self._pending if chance.random() < 0.5]  # noqa: PLR2004
        else:
            kept = []
        for op, number in kept:
            _change(names, op, number)
        contents: dict[int, bytes] = {}
        for number in set(names.values()) - {0}:
            file = self._files[number]
            content = bytearray(file.durable)
            for change in file.pending:
                if loss is not Loss.ALL and chance.random() < 0.5:  # noqa: PLR2004
                    _write(content, change)
            contents[number] = bytes(content)
        return names, contents

    def materialise(self, into: Path, names: dict[str, int], contents: dict[int, bytes]) -> None:
        """Make these files below `into`."""
        made: dict[int, Path] = {}
        for name, number in sorted(names.items()):
            path = into / PurePosixPath(name).relative_to(self._root)
            if not path.parent.is_dir():
                continue  # its directory was lost
            if number == 0:
                path.mkdir(exist_ok=True)
            elif number in made:
                path.hardlink_to(made[number])
            else:
                path.write_bytes(contents[number])
                made[number] = path

    def _sync_directory(self, folder: str) -> None:
        left: list[tuple[Op, int]] = []
        for op, number in self._pending:
            # A rename between two directories is one transaction: syncing either makes it durable.
            named = {RENAME: (op.path, op.other), LINK: (op.other,)}.get(op.kind, (op.path,))
            if folder in {name.rpartition("/")[0] for name in named}:
                _change(self._durable, op, number)
            else:
                left.append((op, number))
        self._pending = left


def _change(names: dict[str, int], op: Op, number: int) -> None:
    """An operation on names; one whose premise was lost does nothing."""
    if op.kind == CREATE:
        names[op.path] = number
    elif op.kind == MKDIR:
        names.setdefault(op.path, 0)
    elif op.kind == LINK:
        names[op.other] = number
    elif op.kind in {UNLINK, RMDIR}:
        names.pop(op.path, None)
    elif op.kind == RENAME and op.path in names:
        moved = [name for name in names if name == op.path or name.startswith(op.path + "/")]
        for name in [n for n in names if n == op.other or n.startswith(op.other + "/")]:
            del names[name]
        for name in moved:
            names[op.other + name[len(op.path) :]] = names.pop(name)


def _write(content: bytearray, op: Op) -> None:
    if op.kind == WRITE:
        content.extend(bytes(max(0, op.offset + op.size - len(content))))
        content[op.offset : op.offset + op.size] = op.data
    elif op.kind == FALLOCATE:
        content.extend(bytes(max(0, op.offset + op.size - len(content))))
    elif op.size < len(content):
        del content[op.size :]
    else:
        content.extend(bytes(op.size - len(content)))


def crash_states(root: str, ops: list[Op]) -> Iterator[tuple[list[str], Disk, Loss]]:
    """(marks so far, disk, loss) at every operation with every kind of loss."""
    disk = Disk(root)
    marks: list[str] = []
    for op in ops:
        if op.kind == MARK:
            marks.append(op.path)
            continue
        for loss in Loss:
            yield list(marks), disk, loss
        disk.apply(op)
    for loss in Loss:
        yield list(marks), disk, loss
