"""What the engine's tests save, and how they damage it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slurmext.checkpoint.engine import Engine

LARGE = 1 << 18  # float32 elements of an array that has blocks of its own


def state_of(step: float) -> dict:
    return {"w": np.full(1000, step, np.float32), "frozen": np.arange(LARGE, dtype=np.float32), "step": step}


def save(place: Path, *steps: int, **options) -> list:
    with Engine(place, **options) as engine:
        tickets = []
        for step in steps:
            tickets.append(engine.save(step, state_of(step), wait=True))
            engine.wait()
        return tickets


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << position % 8]))
