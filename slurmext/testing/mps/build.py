"""Compiles the fake nvidia-cuda-mps-control."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from slurmext.errors import SlurmextError

HERE = Path(__file__).parent
CONTROL = "nvidia-cuda-mps-control"
CLIENT = "fake-cuda-client"
"""`fake-cuda-client [--memory MIB] [--seconds N] [--in-flight]`; the last takes its server along when it is killed."""
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")


def build(folder: Path, *, v3: bool = True) -> Path:
    """CONTROL in `folder`, with CLIENT beside it, compiled unless it is there already for this source.

    Without `v3` it is one of a driver that has no MPS v3. Raises SlurmextError.
    """
    sources = sorted(HERE.glob("*.c"))
    content = b"".join(path.read_bytes() for path in (*sorted(HERE.glob("*.h")), *sources)) + bytes([v3])
    target, made_from, digest = folder / CONTROL, folder / f"{CONTROL}.sha256", hashlib.sha256(content).hexdigest()
    if target.exists() and made_from.exists() and made_from.read_text(encoding="ascii") == digest:
        return target
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise SlurmextError("no C compiler: apt install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{CONTROL}.{os.getpid()}"
    argv = [compiler, *_FLAGS, *(["-DWITH_V3"] if v3 else []), "-o", str(draft), *map(str, sources)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SlurmextError(f"{HERE} does not compile: {done.stderr.strip()[:500]}")
    draft.chmod(0o755)
    draft.replace(target)
    client = folder / CLIENT
    client.unlink(missing_ok=True)
    client.hardlink_to(target)
    made_from.write_text(digest, encoding="ascii")
    return target


def set_faults(gpus: Path, *faults: str) -> None:
    """Let these go wrong on the node whose GPUs are described in that file; none: nothing.

    `start fail`, `start hang`, `quit hang`, `delay 200` (milliseconds at each command).
    """
    gpus.with_name(f"{gpus.name}.mps").write_text("".join(f"{fault}\n" for fault in faults), encoding="ascii")
