"""Compiles the simulated driver, libnvidia-ml.so.1."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from slurmext.errors import SlurmextError

HERE = Path(__file__).parent
LIBRARY = "libnvidia-ml.so.1"
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O2", "-pthread", "-fvisibility=hidden",
          "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}")  # fmt: skip


def build(folder: Path) -> Path:
    """The library in `folder`, compiled unless it is there already for this source. Raises SlurmextError."""
    sources = sorted(HERE.glob("*.c"))
    source = b"".join(path.read_bytes() for path in (*sorted(HERE.glob("*.h")), *sources))
    target, made_from = folder / LIBRARY, folder / f"{LIBRARY}.sha256"
    digest = hashlib.sha256(source).hexdigest()
    if target.exists() and made_from.exists() and made_from.read_text(encoding="ascii") == digest:
        return target
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise SlurmextError("no C compiler: apt install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{LIBRARY}.{os.getpid()}"
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", str(draft), *map(str, sources)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SlurmextError(f"{HERE} does not compile: {done.stderr.strip()[:500]}")
    draft.replace(target)
    made_from.write_text(digest, encoding="ascii")
    return target
