"""CRIU 4 or later for jobs of --ckpt=transparent: the host's, else Debian 13's with the libraries it was built for.

Debian 12 ships CRIU 3.17.1, which fails on kernels of today. The packages are only unpacked into the cache, and run by
their own dynamic linker: nothing is installed on the host.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import packages, roots
from slurmext.devcluster.errors import DevclusterError

if TYPE_CHECKING:
    from slurmext.devcluster.packages import Say

_RELEASE: Final = "trixie"
_LEAST: Final = 4
_KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


def ensure(say: Say) -> Path:
    """The path of a CRIU that works here, unpacked on first use. Raises DevclusterError."""
    own = packages.program("criu")
    if own is not None and _works(Path(own)):
        return Path(own)
    cache = roots.cache_dir() / f"criu-{_RELEASE}"
    program = cache / "criu"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with roots.locked(cache.parent / f".{cache.name}.lock"):
        if not _works(program):
            packages.ensure([packages.ROOTS], say)
            say(f"unpacking CRIU of Debian {_RELEASE} (once)")
            _unpack(cache)
            _write_launcher(cache, program)
    if not _works(program):
        raise DevclusterError(f"{program} does not run; see {cache}/apt.log")
    return program


def _works(program: Path) -> bool:
    if not program.exists():
        return False
    said = subprocess.run([str(program), "--version"], check=False, capture_output=True, text=True).stdout
    version = re.search(r"Version: (\d+)", said)
    return version is not None and int(version[1]) >= _LEAST


def _unpack(cache: Path) -> None:
    """Fetch the packages with a package manager's state of our own, and unpack them."""
    state = cache / "apt"
    for folder in ("lists/partial", "archives/partial", "etc"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    mirror = os.environ.get("SLURMEXT_DEBIAN_MIRROR") or roots.host_mirror() or "http://deb.debian.org/debian"
    (state / "sources.list").write_text(f"deb [signed-by={_KEYS}] {mirror} {_RELEASE} main\n")
    options = {
        "Dir::State": state, "Dir::State::lists": state / "lists", "Dir::State::status": state / "status",
        "Dir::Cache": state, "Dir::Cache::archives": state / "archives", "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": state / "etc", "Dir::Etc::preferencesparts": state / "etc",
        "APT::Sandbox::User": "root", "Acquire::Languages": "none",
    }  # fmt: skip
    apt = [packages.required_program("apt-get"), *(f"-o{key}={value}" for key, value in options.items()), "-q", "-y"]
    roots.logged([*apt, "update"], cache / "apt.log", "wb")
    roots.logged([*apt, "--no-install-recommends", "--download-only", "install", "criu"], cache / "apt.log", "ab")
    for package in sorted((state / "archives").glob("*.deb")):
        roots.logged([packages.required_program("dpkg-deb"), "-x", str(package), str(cache / "root")],
                     cache / "apt.log", "ab")  # fmt: skip


def _write_launcher(cache: Path, program: Path) -> None:
    root = cache / "root"
    library = next(root.glob("usr/lib/*/libc.so.6")).parent
    loader = next(iter([*library.glob("ld-linux*.so.*"), *root.glob("usr/lib64/ld-linux*.so.*")]))
    binary = root / "usr/sbin/criu"
    program.write_text(f'#!/bin/sh\nexec {loader} --inhibit-cache --library-path {library} {binary} "$@"\n')
    program.chmod(0o755)
