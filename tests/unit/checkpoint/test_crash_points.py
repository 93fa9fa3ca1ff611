"""No fault of the file system, of the power or of the machine costs more than the save it hits."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import slurmext
from slurmext.testing import faultfs
from slurmext.testing.faultfs import power

sys.path.insert(0, str(Path(__file__).parent))
import crash_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc")
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def place(tmp_path):
    """Where thousands of small saves are made: in memory, since how long a sync takes is not what is tested."""
    folder = (MEMORY or tmp_path) / f"slurmext-crash-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return faultfs.build(tmp_path_factory.mktemp("faultfs"))


def run(library: Path, *arguments: object) -> str:
    script = Path(crash_runs.__file__)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": str(Path(slurmext.__file__).parents[1]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_no_problem(told: str, at_least: int) -> None:
    result = json.loads(told)
    assert result["problems"] == []
    assert result["points"] >= at_least


def test_killed_at_every_operation(library, place):
    """Killed before, after and half-way through every write, sync, rename, link and removal: all that was on disk is restored."""
    assert_no_problem(run(library, "kill", place / "d", "alone", 1), 240)


def test_every_operation_fails_once_or_for_good(library, place):
    """An I/O error, a full disk and a short write at every other operation: the save fails or succeeds, nothing older is lost."""
    assert_no_problem(run(library, "fail", place / "d", "alone", 2), 150)


def test_ranks_killed_together(library, place):
    """Two ranks killed at every fourth operation of their common saves."""
    assert_no_problem(run(library, "kill", place / "d", "two_ranks", 4), 150)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("what", "scenario"), [("fail", "alone"), ("kill", "two_ranks"), ("fail", "two_ranks")])
def test_at_every_single_operation(library, place, what, scenario):
    """The same without leaving operations out."""
    assert_no_problem(run(library, what, place / "d", scenario, 1), 300)


@pytest.mark.parametrize(("scenario", "share"), [("alone", 1.0), ("two_ranks", 0.4)])
def test_power_cut_at_every_operation(library, place, scenario, share):
    """Power cut after every operation, with all, some or none of what was not synced on disk: what was told saved is restored."""
    run(library, "record", place / "d", scenario, place / "trace")
    ops = power.read_trace(place / "trace")
    chance, tried = random.Random(5), 0
    assert {op.kind for op in ops} >= {
        power.WRITE,
        power.FSYNC,
        power.RENAME,
        power.LINK,
        power.MKDIR,
        power.UNLINK,
        power.MARK,
    }
    for marks, disk, loss in power.crash_states(str(place / "d"), ops):
        if chance.random() > share:
            continue
        folder = place / "after"
        folder.mkdir()
        disk.materialise(folder, *disk.after_power_cut(loss, chance))
        last = max(map(int, marks), default=0)
        problem = crash_runs.look(folder, last, crash_runs.SCENARIOS[scenario][1])
        assert problem is None, f"{loss.name} after {len(marks)} marks: {problem}"
        shutil.rmtree(folder)
        tried += 1
    assert tried >= 200


def test_the_fault_library_notices_what_it_should(library, place):
    """The check itself: a step that was not saved is reported as lost."""
    assert "was on disk" in str(crash_runs.look(place / "empty", 3, 1))
