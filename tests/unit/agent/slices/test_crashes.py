"""kill -9 of the agent at every NVML call boundary: the next agent leaves no orphan and no slice with two owners."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slurmext.testing.nvml import build

QUICK = [("before",), ("after",), ("after", "twice"), ("after", "power")]
ALL = [pytest.param((*how, "all"), marks=[pytest.mark.slow, pytest.mark.timeout(1800)]) for how in QUICK]


@pytest.mark.parametrize("how", [*QUICK, *ALL], ids=" ".join)
def test_an_agent_dies_at_a_call(folder, how):
    """Before and after the calls of a day's work (with `twice`, the agent after it dies as well; with `power`, the node
    loses its instances and its MIG mode too): foreign instances stay, every other one is whole and has one owner, all
    goes when jobs are over, and new jobs start. Quickly at every call that changes something, else at every call.
    """
    build(folder / "lib")
    done = subprocess.run([sys.executable, Path(__file__).with_name("crashes.py"), folder, *how],
                          capture_output=True, text=True, timeout=1700, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["tried"] > 50
    assert result["problems"] == []
