"""`bin/`: Slurm's commands bound to this cluster, usable by every user from anywhere on the host.

Commands of another release run by the dynamic linker and libraries of its root, not in a chroot: so they need no
privilege, and files, users and the working directory are the caller's own.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import packages
from slurmext.devcluster.conf import plugin_dir
from slurmext.devcluster.errors import DevclusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.devcluster.spec import Layout

_COMMANDS: Final = (
    "sacct", "sacctmgr", "salloc", "sattach", "sbatch", "sbcast", "scancel", "scontrol", "scrontab", "sdiag", "sinfo",
    "sprio", "squeue", "sreport", "sshare", "srun", "sstat", "strigger",
)  # fmt: skip
DAEMONS: Final = ("slurmctld", "slurmd", "slurmdbd", "slurmrestd")
_MUNGE: Final = ("munge", "unmunge", "remunge")


def write_wrappers(layout: Layout, root: Path | None) -> None:
    """Write every wrapper whose program is there. Raises DevclusterError when Slurm's are not."""
    for name, program in programs(root):
        exports = {"SLURM_CONF": str(layout.slurm_conf)}
        _write(layout.bin / name, exports, launcher(program, root))
    for name in _MUNGE:
        _write(layout.bin / name, {}, [packages.required_program(name), "-S", str(layout.munge_socket)])
    exports = {"SLURM_CONF": str(layout.slurm_conf), "SLURMEXT_CONF": str(layout.site_config)}
    _write(layout.bin / "slurmext", exports, [sys.executable, "-P", "-m", "slurmext.cli"])
    if not (layout.bin / "sbatch").exists():
        raise DevclusterError(f"no sbatch in {root or 'this host'}: install slurm-client")


def programs(root: Path | None) -> Iterator[tuple[str, Path]]:
    """Name and path of each Slurm program of the host, or of another release's root."""
    for name in (*_COMMANDS, *DAEMONS):
        if root is None:
            found = packages.program(name)
            if found is not None:
                yield name, Path(found)
        else:
            path = in_root(root, f"/usr/{'sbin' if name in DAEMONS else 'bin'}/{name}")
            if path is not None:
                yield name, path


def in_root(root: Path, path: str) -> Path | None:
    """The file a path names inside a root, or None: its absolute links (of /etc/alternatives) are the root's too."""
    for _ in range(8):
        here = root / path.lstrip("/")
        if not here.is_symlink():
            return here if here.exists() else None
        path = str(Path(path).parent / here.readlink())
    return None


def launcher(program: Path, root: Path | None) -> list[str]:
    """The command that runs a program of a root on this host."""
    if root is None:
        return [str(program)]
    plugins = plugin_dir(root)
    loader = next(path for path in (*root.glob("usr/lib64/ld-linux*.so.*"), *root.glob("usr/lib/ld-linux*.so.*")))
    return [str(loader), "--inhibit-cache", "--library-path", f"{plugins.parent}:{plugins}", str(program)]


def _write(path: Path, exports: dict[str, str], command: list[str]) -> None:
    lines = ["#!/bin/sh", *(f"export {name}={shlex.quote(value)}" for name, value in exports.items())]
    path.write_text("\n".join([*lines, f'exec {shlex.join(command)} "$@"', ""]))
    path.chmod(0o755)
