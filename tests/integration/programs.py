"""Training programs for tests on a real Slurm: with which Python the cluster's users run them, and what they said."""

from __future__ import annotations

import itertools
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
    from collections.abc import Sequence

    from tests.integration.conftest import Site

EXAMPLES = Path(__file__).parents[2] / "examples"
FORKED = Path(__file__).with_name("forked_ranks.py")
PACKAGES = sysconfig.get_path("purelib")
RANKS = """\
import os, time
from slurmext.checkpoint import Checkpointer
runs_wanted, finish = int(os.environ.get("RUNS", 10**6)), os.environ.get("FINISH", "")
state = {"own": [os.environ["SLURM_PROCID"]]}
ckpt = Checkpointer(state, every_s=None)
step, runs = ckpt.restore() or 0, int(os.environ.get("SLURM_RESTART_COUNT", 0))
print("rank", ckpt.place.rank, "of", ckpt.place.world, "from", step, state["own"], "of run", runs, flush=True)
last = step + 40 if runs >= runs_wanted else 10**6
while step < last and not os.path.exists(finish):
    step += 1
    time.sleep(0.05)
    if ckpt.due(step):
        ckpt.save(step)
        print("saved", step, flush=True)
print("done", flush=True)
"""
"""Saves when told to, and ends soon after RUNS restarts, or when there is a file FINISH."""
_numbers = itertools.count()


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
    return {
        "PYTHONPATH": f"{site.cluster.layout.python}:{PACKAGES}",
        "MASTER_PORT": rendezvous(),
        **dict.fromkeys(names, "1"),
    }


def rendezvous() -> str:
    """The first of ten ports to meet at, one for each run of a job: none that devclusters take, nor another test beside this one."""
    return str(10000 + (1010 * os.getpid() + 10 * next(_numbers)) % 10000)


def undisturbed(arguments: Sequence[str], *, world: int) -> dict[str, str]:
    """`results` of the same training outside Slurm, by ranks that nobody disturbs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    env = {**clean, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": rendezvous(), "PYTHONPATH": str(EXAMPLES.parent)}
    argv = [sys.executable, str(FORKED), str(world), str(EXAMPLES / "train_torch.py"), *arguments]
    return results(subprocess.run(argv, env=env, text=True, stdout=subprocess.PIPE, timeout=300, check=True).stdout)


def results(text: str) -> dict[str, str]:
    """The last line of each rank: rank to digests."""
    return dict(re.findall(r"^rank (\d+) of \d+: (.*)$", text, flags=re.MULTILINE))
