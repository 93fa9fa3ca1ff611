"""How long slurm.conf lets a prolog wait for models."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from slurmext.agent.staging.limits import longest_prolog_s


@pytest.mark.parametrize(
    ("conf", "seconds"),
    [
        ("PrologEpilogTimeout=60\nBatchStartTimeout=60\n", 50),
        ("PrologEpilogTimeout=400\nBatchStartTimeout=60\n", 60),
        ("  prologtimeout = 30 # ours\nPrologEpilogTimeout=60\nBatchStartTimeout=90\n", 20),
        ("PrologEpilogTimeout=60\n", 10),
        ("#BatchStartTimeout=99\nBatchStartTimeout=20\n", 20),
        ("PrologEpilogTimeout=5\nBatchStartTimeout=90\n", 0),
    ],
)
def test_a_prolog_leaves_slurm_the_time_it_needs(tmp_path: Path, conf: str, seconds: float) -> None:
    """Neither is the node drained, nor is a batch job taken for lost: ten seconds unless slurm.conf says more."""
    path = tmp_path / "slurm.conf"
    path.write_text(conf)
    assert longest_prolog_s(path) == seconds


def test_a_configuration_that_cannot_be_read_limits_nothing(tmp_path: Path) -> None:
    """Where Slurm's own places have none either."""
    if any(Path(place).exists() for place in ("/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf")):
        pytest.skip("this machine has a Slurm of its own")
    assert longest_prolog_s(tmp_path / "none") == math.inf
