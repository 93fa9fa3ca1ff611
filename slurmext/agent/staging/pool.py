"""Room for models on this node, as the site file says: memory, and local disk where there is a directory for it."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from slurmext.adapters.transport.select import make_transport
from slurmext.agent.files import own_directory
from slurmext.errors import SlurmextError
from slurmext.staging.store.mount import mount_memory
from slurmext.staging.store.tier import Tier, TierKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.adapters.transport.handshake import Identity
    from slurmext.config.site import StagingSite
    from slurmext.staging.transport import Transport

log = logging.getLogger(__name__)

_GIB = 1 << 30
_SPARE = 8
"""Pages of models given up that are kept for the next one: this part of the room."""


def place(directory: Path, node: str) -> Path:
    """The directory with the node's name for `%n`."""
    return Path(str(directory).replace("%n", node))


def memory_bytes(site: StagingSite) -> int:
    """Room in memory."""
    if site.memory_gib is not None:
        return int(site.memory_gib * _GIB)
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * site.memory_percent / 100)


def capacities(site: StagingSite) -> dict[str, tuple[int, int]]:
    """Bytes taken and bytes there are, by tier, of a node that has no models yet."""
    rooms = {TierKind.MEMORY.value: (0, memory_bytes(site))}
    if site.disk_dir is not None:
        rooms[TierKind.DISK.value] = 0, int(site.disk_gib * _GIB)
    return rooms


def claim(site: StagingSite, node: str) -> None:
    """Make the directory that memory for models lies in before any user does: /dev/shm is everyone's. Raises
    SlurmextError.
    """
    if memory_bytes(site):
        own_directory(place(site.memory_dir, node).parent, 0o755)


def open_tiers(site: StagingSite, node: str) -> Mapping[TierKind, Tier]:
    """The tiers, with what an agent before this one left in them. Raises SlurmextError, OSError."""
    tiers = dict[TierKind, Tier]()
    if capacity := memory_bytes(site):
        claim(site, node)
        root = place(site.memory_dir, node)
        own_directory(root, 0o755)
        if site.memory_mount and not mount_memory(root, capacity):
            log.warning("no memory file system could be mounted at %s: models there are where the directory is", root)
        tiers[TierKind.MEMORY] = Tier(root, TierKind.MEMORY, capacity_bytes=capacity, spare_bytes=capacity // _SPARE)
    if site.disk_dir is not None:
        root = place(site.disk_dir, node)
        own_directory(root, 0o755)
        tiers[TierKind.DISK] = Tier(root, TierKind.DISK, capacity_bytes=int(site.disk_gib * _GIB))
    return tiers


def is_used(site: StagingSite, node: str) -> bool:
    """Whether models may be here: an agent before this one made the directory."""
    directories = [site.memory_dir, *([site.disk_dir] if site.disk_dir is not None else [])]
    return any(place(directory, node).is_dir() for directory in directories)


def open_transport(site: StagingSite, identity: Identity) -> Transport:
    """The transport; it listens at the site's port, or at another when that is taken. Raises SlurmextError, OSError."""
    with contextlib.suppress(OSError, SlurmextError):
        return make_transport(site.transport, site.listen, identity)
    host, _, _ = site.listen.rpartition(":")
    return make_transport(site.transport, f"{host}:0", identity)
