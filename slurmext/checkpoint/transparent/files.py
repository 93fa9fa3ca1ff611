"""Files that a program had open when it was dumped: as long as they were then, or CRIU does not restore it.

A log that grew after the dump (the node died later) is cut back to where the program was; what is cut off is kept
beside the dump. A file that is gone or shorter cannot be helped and is named.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.errors import CheckpointError

_ACCESS = os.O_ACCMODE


def open_files(pids: Iterable[int], proc: str = "/proc") -> list[dict[str, Any]]:
    """Regular files that these processes have open: path, size in bytes, and whether one of them writes there."""
    found: dict[str, dict[str, Any]] = {}
    for pid in pids:
        try:
            names = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                path = str(Path(f"{proc}/{pid}/fd/{name}").readlink())
                info = Path(f"{proc}/{pid}/fd/{name}").stat()
                about = Path(f"{proc}/{pid}/fdinfo/{name}").read_text(encoding="ascii")
            except OSError:
                continue
            if not stat.S_ISREG(info.st_mode) or info.st_nlink == 0 or not path.startswith("/"):
                continue  # CRIU takes deleted files along
            flags = int(about.partition("flags:")[2].split()[0], 8)
            entry = found.setdefault(path, {"path": path, "size": info.st_size, "writes": False})
            entry["writes"] |= flags & _ACCESS != os.O_RDONLY
    return sorted(found.values(), key=lambda entry: entry["path"])


def sizes_now(entries: list[dict[str, Any]]) -> None:
    """Once the program stands still: note how long the files it writes are."""
    for entry in entries:
        try:
            entry["size"] = Path(entry["path"]).stat().st_size
        except OSError:
            continue


def cut_back(entries: list[dict[str, Any]], keep: Path) -> list[str]:
    """Make the files as long as they were; returns what was done, a line each. Raises CheckpointError naming a file.

    `keep` is the folder that gets what is cut off.
    """
    done = list[str]()
    for number, entry in enumerate(entries):
        path, size = Path(str(entry["path"])), int(entry["size"])
        try:
            now = path.stat().st_size
        except OSError as error:
            raise CheckpointError(
                f"{path}, which the program had open, is not here ({error.strerror}): keep such files on storage that "
                "every node reaches"
            ) from error
        if now == size:
            continue
        if not entry["writes"]:
            raise CheckpointError(f"{path}, which the program reads, has {now} bytes instead of {size}: it was changed")
        if now < size:
            raise CheckpointError(f"{path} has {now} bytes instead of {size}: part of it is lost")
        tail = keep / f"after-dump-{number}-{path.name}"
        _move_tail(path, size, tail)
        done.append(f"{path} is cut back to {size} bytes, where the program goes on; the rest is in {tail}")
    return done


def _move_tail(path: Path, size: int, tail: Path) -> None:
    with path.open("r+b") as file, tail.open("ab") as kept:
        file.seek(size)
        while chunk := file.read(1 << 20):
            kept.write(chunk)
        kept.flush()
        os.fsync(kept.fileno())
        file.truncate(size)
