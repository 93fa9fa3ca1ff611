"""Other releases of Slurm: cached Debian roots, of which a cluster uses `/usr` in a mount namespace of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import packages, users
from slurmext.devcluster.errors import BadSpec, DevclusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurmext.devcluster.packages import Say

# Debian's name of a release, and the Slurm it ships.
RELEASES: Final[Mapping[str, str]] = {"trixie": "24.11", "forky": "26.05"}

_PACKAGES: Final = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurmdbd",
    "slurmrestd",
    "libslurm-dev",
    "munge",
    "python3",
    "python3-numpy",
    "python3-xxhash",
    "iproute2",
    "procps",
)
_STAMP: Final = ".slurmext-root"
_SCRIPT: Final = "/usr/share/debootstrap/scripts/sid"
_FORMAT: Final = "1\n"  # raise it when _PACKAGES changes: older roots are then rebuilt


def cache_dir() -> Path:
    """Where the roots are cached: $SLURMEXT_ROOTS, or /var/cache/slurmext/roots."""
    return Path(os.environ.get("SLURMEXT_ROOTS", "/var/cache/slurmext/roots"))


def ready_root(release: str) -> Path | None:
    """The cached root of a release, or None while it has not been built."""
    root = cache_dir() / release
    stamp = root / _STAMP
    return root if stamp.is_file() and stamp.read_text() == _FORMAT else None


def ensure_root(release: str, say: Say) -> Path:
    """The root of a release, debootstrapped on first use (about two minutes). Raises DevclusterError."""
    if release not in RELEASES:
        raise BadSpec(f"release {release!r} is not known: use native or one of {', '.join(RELEASES)}")
    if (root := ready_root(release)) is not None:
        return root
    users.require_root("fetches another release of Slurm")
    packages.ensure([packages.ROOTS], say)
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f".{release}.lock"):
        if (root := ready_root(release)) is not None:
            return root
        say(f"building the {release} root with Slurm {RELEASES[release]} (once, about two minutes)")
        partial = cache / f".{release}.partial"
        _remove(partial)
        _debootstrap(release, partial, cache / f"{release}.log")
        _install(partial, cache / f"{release}.log")
        (partial / _STAMP).write_text(_FORMAT)
        root = cache / release
        _remove(root)
        partial.rename(root)
        return root


def _debootstrap(release: str, root: Path, log: Path) -> None:
    # The script is named because an older debootstrap does not know the newer releases by name; all use sid's.
    mirror = os.environ.get("SLURMEXT_DEBIAN_MIRROR") or host_mirror()
    logged(
        [packages.required_program("debootstrap"), "--variant=minbase", release, str(root), mirror, _SCRIPT],
        log,
        "wb",
    )


def _install(root: Path, log: Path) -> None:
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # packages start no service inside the root
    policy.chmod(0o755)
    chroot = [packages.required_program("chroot"), str(root)]
    logged([*chroot, "apt-get", "install", "-y", "-q", "--no-install-recommends", *_PACKAGES], log, "ab")
    logged([*chroot, "apt-get", "clean"], log, "ab")


def host_mirror() -> str:
    """The Debian mirror this host already uses, else empty: debootstrap then takes its own default."""
    listed = subprocess.run(
        [
            packages.required_program("apt-get"),
            "indextargets",
            "--format",
            "$(ORIGIN) $(REPO_URI)",
            "Created-By: Packages",
        ],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    for line in listed.splitlines():
        origin, _, uri = line.partition(" ")
        # Plain http, as Debian's own: the root has no certificates yet (packages are signed).
        if origin == "Debian" and uri.startswith("http://") and "security" not in uri:
            return uri
    return ""


def logged(command: list[str], log: Path, mode: str) -> None:
    """Run a command, its output into `log` (opened as `mode`). Raises DevclusterError with its last line."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    with log.open(mode) as out:
        code = subprocess.run(
            command, check=False, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env
        ).returncode
    if code != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise DevclusterError(f"{Path(command[0]).name} failed ({code}): {''.join(tail)}; see {log}")


def _remove(path: Path) -> None:
    if not path.exists():
        return
    if inside := mounts_below(path):  # removing through a mount would delete what is mounted
        raise DevclusterError(f"{inside[0]} is mounted inside {path}: umount it first")
    shutil.rmtree(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes of this host respect."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def mounts_below(directory: Path) -> list[str]:
    """Mount points at or below a directory, as this process sees them."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if Path(point).is_relative_to(directory)]
