"""What killed clusters left outside their directories: models in memory, bridges of --netns.

Swept is only what no cluster that runs, is being booted or has its directory still can have made.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import netns, ports, processes, roots
from slurmext.devcluster.spec import BASE, MEMORY

if TYPE_CHECKING:
    from collections.abc import Collection

    from slurmext.devcluster.packages import Say

_BRIDGE: Final = re.compile(r"sx([0-9]{1,3})")
_LINKS: Final = Path("/sys/class/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Living:
    """Directories of clusters, and their subnets; None where that of one that runs cannot be told."""

    directories: frozenset[Path]
    subnets: frozenset[str] | None


def living() -> Living:
    """Clusters that have a directory in the usual place, and those elsewhere that have a process."""
    running = processes.marked()
    there = running | {path for path in BASE.glob("*") if path.is_dir()}
    subnets: set[str] = set()
    known = True
    for directory in there:
        try:
            record = json.loads((directory / "cluster.json").read_text())
        except (OSError, ValueError):
            known = known and directory not in running
            continue
        subnets |= {record["subnet"]} if record.get("subnet") else set()
    return Living(directories=frozenset(there), subnets=frozenset(subnets) if known else None)


def orphaned_memory(clusters: Living, memory: Path = MEMORY.parent) -> list[Path]:
    """Directories of models in memory that are root's and no cluster's."""
    names = {f"{MEMORY.name}{directory.name}" for directory in clusters.directories}
    found: list[Path] = []
    for path in sorted(memory.glob(f"{MEMORY.name}*")):
        info = path.lstat()
        if path.name not in names and stat.S_ISDIR(info.st_mode) and info.st_uid == 0:
            found.append(path)
    return [path for path in found if not roots.mounts_below(path)]


def orphaned_bridges(clusters: Living, links: Path = _LINKS) -> list[str]:
    """Bridges by our names, without a link, whose subnet is no cluster's."""
    if clusters.subnets is None:
        return []
    found: list[str] = []
    for path in sorted(links.glob("sx*/bridge")):
        match = _BRIDGE.fullmatch(path.parent.name)
        if match and ports.subnet(int(match[1])) not in clusters.subnets and not _has_links(path.parent):
            found.append(path.parent.name)
    return found


def _has_links(bridge: Path) -> bool:
    return any((bridge / "brif").iterdir())


def sweep(say: Say) -> None:
    """Remove it all, a line for each."""
    with ports.claiming():  # whoever boots has its record in place before anything else of it is made
        clusters = living()
        for path in orphaned_memory(clusters):
            shutil.rmtree(path, ignore_errors=True)
            say(f"removed {path}, which a killed cluster left")
        _drop(orphaned_bridges(clusters), say)


def _drop(bridges: Collection[str], say: Say) -> None:
    for name in bridges:
        if netns.drop_bridge(name):
            say(f"removed the bridge {name}, which a killed cluster left")
