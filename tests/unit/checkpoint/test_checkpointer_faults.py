"""No fault costs more than the save it hits: damage, kill -9 while saving, a full disk, one that is read-only."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from slurmext.checkpoint import Checkpointer, CheckpointError
from slurmext.checkpoint.transparent import wrapper

from .programs import new_state, restored, run, save_steps, spoil

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys):
    """Restore takes the one before, says which is bad, and the run can go on saving."""
    save_steps(tmp_path, 10, 20)
    bad = next(tmp_path.glob("save-*-step-20"))
    spoil(bad)
    assert restored(tmp_path) == (10, 10.0)
    assert str(bad) in capsys.readouterr().err
    save_steps(tmp_path, 20)
    assert restored(tmp_path) == (20, 20.0)


WRITER = """
    import sys, numpy as np
    from slurmext.checkpoint import Checkpointer
    state = {"w": np.zeros(200_000), "n": 0}
    ckpt = Checkpointer(state, sys.argv[1])
    n = ckpt.restore() or 0
    assert (state["w"] == n).all() and state["n"] == n
    print("ready", n, flush=True)
    while True:
        n += 1
        state["w"] += 1
        state["n"] = n
        ckpt.save(n)
        print("saved", n, flush=True)
"""


def test_kill_9_at_any_point(tmp_path):
    """A process killed again and again while it saves always resumes from its last finished save, or a later one."""
    chance, last = random.Random(2), 0
    for _ in range(12):
        program = run(WRITER, tmp_path)
        ready = program.stdout.readline().split()
        assert ready and int(ready[1]) >= last, program.stderr.read()
        time.sleep(0.01 + chance.random() * 0.05)
        program.kill()
        # Killed in the middle of a line, it did not say it.
        said = [line.split() for line in program.communicate(timeout=30)[0].splitlines(keepends=True) if "\n" in line]
        last = int(said[-1][1]) if said else int(ready[1])
    assert last > 3
    step, value = restored_plain(tmp_path)
    assert step >= last and value == step


def restored_plain(folder: Path) -> tuple[int, float]:
    state = {"w": np.zeros(200_000), "n": 0}
    with Checkpointer(state, folder) as ckpt:
        step = ckpt.restore() or 0
    assert (state["w"] == state["w"][0]).all()
    return step, float(state["w"][0])


@needs_root
def test_disk_full(tmp_path):
    """No space left: the error names directory and remedy, nothing half-written stays, the older checkpoint is good."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(place)], check=True)
    try:
        save_steps(place, 10)
        big = {"w": np.zeros(100_000)}
        with (
            Checkpointer(big, place, signals=False) as ckpt,
            pytest.raises(CheckpointError, match=r"small: no space left.*--ckpt-dir"),
        ):
            ckpt.save(20)
        assert sorted(os.listdir(place)) == [".lock", "save-00000001-step-10"]
        assert restored(place) == (10, 10.0)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@needs_root
def test_read_only_file_system(tmp_path):
    """A read-only directory is said to be so when the job starts, not after hours of training."""
    place = tmp_path / "ro"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)], check=True)
    try:
        with pytest.raises(CheckpointError, match="read-only"):
            Checkpointer(new_state(), place).restore()
        with pytest.raises(CheckpointError, match="read-only"):
            Checkpointer(new_state(), place / "deeper").restore()
    finally:
        subprocess.run(["umount", str(place)], check=True)


NO_PERMISSION = r"^cannot write a checkpoint to \S+/home/checkpoints: no permission to write there; .*--ckpt-dir$"


def test_a_directory_out_of_reach_is_refused_at_the_start(out_of_reach: Path) -> None:
    """With its name and a remedy, whichever way the job looks at it first."""
    with (
        Checkpointer(new_state(), out_of_reach, signals=False) as ckpt,
        pytest.raises(CheckpointError, match=NO_PERMISSION),
    ):
        ckpt.restore()
    with (
        Checkpointer(new_state(), out_of_reach, signals=False) as ckpt,
        pytest.raises(CheckpointError, match=NO_PERMISSION),
    ):
        ckpt.has_saved()
    with pytest.raises(CheckpointError, match=NO_PERMISSION):
        Checkpointer(new_state(), out_of_reach, signals=False, rank=0, world=2)


def test_a_transparent_job_without_room_for_its_own_script_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    """It ends at its start, and lets go of the directory."""
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", str(tmp_path / "d"))
    (tmp_path / "d" / "transparent" / "script").mkdir(parents=True)
    (tmp_path / "job").write_bytes(b"#!/bin/sh\n" + wrapper.MARK + b"#!/bin/sh\ntrue\n")
    for _ in range(2):
        assert wrapper.main([str(tmp_path / "job")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"slurmext: cannot write a checkpoint to {tmp_path}/d/transparent: ")
