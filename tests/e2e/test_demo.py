"""The demo, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "release", ["native", pytest.param("trixie", marks=pytest.mark.slow), pytest.param("forky", marks=pytest.mark.slow)]
)
@pytest.mark.cluster
@pytest.mark.timeout(400)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: slurmd runs jobs as their users")
def test_demo_holds_on_a_real_slurm(release: str) -> None:
    """`slurmext demo` ends with exit code 0: reclaim, checkpoint and resume are true by Slurm's own records."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "slurmext.cli.main",
            "demo",
            "--name",
            f"demo-test-{os.getpid()}",
            "--release",
            release,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every check holds" in done.stdout
