"""A tmpfs of one's own for staged models: huge pages, and a size that keeps models from using up the node's memory.

With pages of 2 MiB mapping a gigabyte takes a millisecond instead of a quarter of a second, and so does reusing it; a
device registers it in a five-hundredth of the entries. It outlives the agent, not a reboot.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

_MOUNT: Final = "/usr/bin/mount"
_UMOUNT: Final = "/usr/bin/umount"


def mount_memory(root: Path, capacity_bytes: int) -> bool:
    """Mount a tmpfs at `root`, unless something is mounted there. False where this process may not, or it is not had.

    Then `root` is an ordinary directory, and works all the same when it is on tmpfs.
    """
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    if root.is_mount():
        return True
    if os.geteuid() != 0:
        return False
    size = capacity_bytes + capacity_bytes // 64 + (64 << 20)  # what is known of the models is there too
    for options in (f"huge=within_size,size={size},mode=755", f"size={size},mode=755"):
        command = [_MOUNT, "-t", "tmpfs", "-o", options, "slurmext-models", str(root)]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return True
    return False


def unmount_memory(root: Path) -> None:
    """Undo it; what is mapped stays until it is let go of."""
    if root.is_mount():
        subprocess.run([_UMOUNT, "-l", str(root)], check=False, capture_output=True)
