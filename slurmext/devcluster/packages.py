"""Debian packages a devcluster needs on the host, installed with apt where their programs are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from slurmext.devcluster.errors import DevclusterError

Say = Callable[[str], None]

# A path or a program that proves the package, and the package. Looked up in sbin too: users' PATH may lack it.
SLURM: Final[Mapping[str, str]] = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "/usr/include/slurm/spank.h": "libslurm-dev",
    "gcc": "gcc",
    "/usr/include/stdio.h": "libc6-dev",
    "unshare": "util-linux",
    "/usr/lib/python3/dist-packages/numpy": "python3-numpy",
    "/usr/lib/python3/dist-packages/xxhash": "python3-xxhash",
}
DBD: Final[Mapping[str, str]] = {
    "slurmdbd": "slurmdbd",
    # The -core packages bring the programs without a system-wide database service.
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}
NETNS: Final[Mapping[str, str]] = {"ip": "iproute2", "tc": "iproute2"}
ROOTS: Final[Mapping[str, str]] = {
    "debootstrap": "debootstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}

_SBIN: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(name: str) -> str | None:
    """Full path of a host program, looked for in the system directories before PATH; None when absent."""
    return shutil.which(name, path=_SBIN) or shutil.which(name)


def required_program(name: str) -> str:
    """Like `program`, but raises DevclusterError when absent."""
    found = program(name)
    if found is None:
        raise DevclusterError(f"{name} is not installed: run scripts/bootstrap.sh, or apt-get install its package")
    return found


def missing(wanted: Mapping[str, str]) -> list[str]:
    """Packages whose proof is absent, sorted."""

    def present(proof: str) -> bool:
        return Path(proof).exists() if proof.startswith("/") else program(proof) is not None

    return sorted({package for proof, package in wanted.items() if not present(proof)})


def ensure(groups: Iterable[Mapping[str, str]], say: Say) -> None:
    """Install what is missing of these groups. Raises DevclusterError when apt cannot."""
    wanted = {proof: package for group in groups for proof, package in group.items()}
    packages = missing(wanted)
    if not packages:
        return
    apt = program("apt-get")
    if apt is None or os.geteuid() != 0:
        why = "this is no apt system" if apt is None else "only root may install them"
        raise DevclusterError(f"missing packages: {' '.join(packages)} ({why}); install them and try again")
    say(f"installing {' '.join(packages)}")
    install = [apt, "install", "-y", "-q", "--no-install-recommends", *packages]
    # Without an update first: it costs seconds and a current list is the usual case.
    if _quiet(install) == 0:
        return
    say("refreshing the package lists")
    _quiet([apt, "update", "-q"])
    done = subprocess.run(install, env=_apt_env(), check=False, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise DevclusterError(f"apt-get install {' '.join(packages)} failed: {''.join(last)}")


def _apt_env() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def _quiet(command: list[str]) -> int:
    return subprocess.run(command, env=_apt_env(), check=False, capture_output=True).returncode
