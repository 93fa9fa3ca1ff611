"""Compile the SPANK plugin for the Slurm release that is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from slurmext.errors import SlurmextError
from slurmext.spank.generate import HERE

DEFAULT_INCLUDE = Path("/usr/include")
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O2", "-fstack-protector-strong", "-Wl,-z,relro,-z,now",
          "-Wall", "-Wextra", "-Werror")  # fmt: skip


def header_release(include: Path) -> tuple[int, int]:
    """Slurm's release according to its headers, e.g. (22, 5). Raises SlurmextError when they are not there."""
    path = include / "slurm" / "slurm_version.h"
    try:
        found = re.search(r"SLURM_VERSION_NUMBER\s+0x([0-9a-fA-F]{6})", path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SlurmextError(
            f"{path}: {error.strerror}; install Slurm's headers (Debian: apt install libslurm-dev) or name their "
            "directory with --spank-include"
        ) from error
    if found is None:
        raise SlurmextError(f"{path} has no SLURM_VERSION_NUMBER; --spank-include must name the folder that has slurm/")
    return int(found[1][0:2], 16), int(found[1][2:4], 16)


def installed_release(bin_dir: Path, slurm_conf: Path) -> tuple[int, int]:
    """Slurm's release according to `scontrol --version`, which wants a slurm.conf. Raises SlurmextError."""
    command = bin_dir / "scontrol"
    try:
        done = subprocess.run(
            [command, "--version"], env={**os.environ, "SLURM_CONF": str(slurm_conf)}, capture_output=True, text=True,
            check=False, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmextError(f"{command} does not run ({error}); set slurm.bin_dir in the site file") from error
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    if found is None:
        said = (done.stdout or done.stderr).strip()[:200]
        raise SlurmextError(
            f"{command} --version said {said!r}: check slurm.bin_dir in the site file, and {slurm_conf}"
        )
    return int(found[1]), int(found[2])


def built_for(plugin: bytes) -> tuple[int, int] | None:
    """The Slurm release a plugin was built for; None when it does not say."""
    found = re.search(rb"slurmext built for Slurm (\d+)\.(\d+)", plugin)
    return (int(found[1]), int(found[2])) if found else None


def build(include: Path, release: tuple[int, int] | None = None) -> bytes:
    """The shared object. A plugin of another release would not load, so `release` must be that of the headers.

    Raises SlurmextError: headers of another release, no compiler, or what the compiler said.
    """
    found = header_release(include)
    if release is not None and found != release:
        raise SlurmextError(
            f"the headers in {include} are of Slurm {found[0]}.{found[1]:02d}, installed is {release[0]}."
            f"{release[1]:02d}: name the right ones with --spank-include"
        )
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise SlurmextError("no C compiler: apt install gcc libc6-dev")
    with tempfile.TemporaryDirectory(prefix="slurmext-build-") as folder:
        out = Path(folder) / "slurmext.so"
        # -isystem: warnings of Slurm's own headers are not ours to mend.
        release_flag = f'-DSLURMEXT_RELEASE="{found[0]}.{found[1]:02d}"'
        includes = ["-I", str(HERE / "generated"), "-isystem", str(include)]
        command = [compiler, *_FLAGS, release_flag, *includes, "-o", str(out), str(HERE / "slurmext.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SlurmextError(f"the SPANK plugin does not compile: {done.stderr.strip()[:2000]}")
        return out.read_bytes()
