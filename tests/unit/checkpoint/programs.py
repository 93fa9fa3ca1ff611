"""What the tests of the Checkpointer save and restore, and how they start programs of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import slurmext
from slurmext.checkpoint import Checkpointer

ROOT = Path(slurmext.__file__).parent.parent


def new_state(value: float = 0.0) -> dict:
    return {
        "w": np.full((64, 32), value, np.float32),
        "opt": {"m": np.full(7, value)},
        "rng": np.random.default_rng(3),
        "epoch": value,
    }


def save_steps(place: Path, *steps: int, keep: int = 2) -> None:
    state = new_state()
    with Checkpointer(state, place, keep=keep) as ckpt:
        for step in steps:
            state["w"][:] = step
            state["epoch"] = step
            ckpt.save(step)


def restored(folder: Path) -> tuple[int | None, float]:
    state = new_state(-1.0)
    with Checkpointer(state, folder) as ckpt:
        step = ckpt.restore()
    assert (state["w"] == state["w"].flat[0]).all()
    return step, float(state["w"].flat[0])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


def spoil(saved: Path) -> None:
    """A bit of the largest file is flipped."""
    flip(max(saved.iterdir(), key=lambda path: path.stat().st_size), 3000)


def run(code: str, *arguments: object, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)  # fmt: skip


@contextlib.contextmanager
def forbidden(directory: Path, *, mode: int = 0o500) -> Iterator[None]:
    """A directory in which this process may do no more than the mode says, also where root runs it."""
    me = os.geteuid()
    directory.chmod(mode)
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)
        directory.chmod(0o700)
