"""Training programs for tests on a real Slurm: with which Python the cluster's users run them, and what they said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.integration.conftest import Site

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = sysconfig.get_path("purelib")


@lru_cache
def python_with(module: str) -> str:
    """A Python that every user may run and that has this module. Skips the test where there is none."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin") or ""):
        argv = ["runuser", "-u", "nobody", "--", "env", f"PYTHONPATH={PACKAGES}", python, "-c", f"import {module}"]
        if python and subprocess.run(argv, check=False, capture_output=True).returncode == 0:
            return python
    pytest.skip(f"no Python that users of the cluster may run has {module}")


def environment(site: Site) -> dict[str, str]:
    """Of a job: two cores for all of them, and slurmext where users can read it."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {"PYTHONPATH": f"{site.cluster.layout.python}:{PACKAGES}", **dict.fromkeys(names, "1")}


def undisturbed(program: Path, arguments: Iterable[str], *, world: int, port: int) -> list[subprocess.Popen[str]]:
    """The same training outside Slurm, its ranks started: `results` of what they print is what there must be."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    common = {**clean, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
              "OMP_NUM_THREADS": "1", "PYTHONPATH": str(program.parents[1])}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(program), *arguments],
            env={**common, "RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
        )
        for rank in range(world)
    ]


def results(text: str) -> dict[str, str]:
    """The last line of each rank: rank to digests."""
    return dict(re.findall(r"^rank (\d+) of \d+: (.*)$", text, flags=re.MULTILINE))
