"""What the controller hears of checkpoints in nodes' memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slurmext.agent.copies import telling
from slurmext.agent.copies.store import MANIFEST, Kept
from slurmext.agent.copies.telling import Telling


class Heard(list[dict[str, Any]]):
    """Stands in for the spool."""

    def add(self, kind: str, **detail: Any) -> None:
        assert kind == "ckpt_copy"
        self.append(detail)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1000.0]
    monkeypatch.setattr(telling.time, "monotonic", lambda: now_s[0])
    return now_s


def kept(name: str, *, only: bool) -> list[Kept]:
    return [Kept(name=name, file=file, path=Path(file), size=5, only=only) for file in ("rank0.bin", MANIFEST)]


def test_progress_is_told_now_and_then(clock: list[float]) -> None:
    """Not of what is quick, not of every block, and not once all is here."""
    heard = Heard()
    told = Telling(heard)  # type: ignore[arg-type]
    for done in range(1, 20):
        clock[0] += 1
        told.progress(7, 1000, "step-1", 19, done)
    assert [each["done_bytes"] for each in heard] == [7, 13]


def test_saves_in_memory_every_second_are_told_every_ten(clock: list[float]) -> None:
    """One that was told of stands for those after it until the next is: the controller never takes a node that has
    some for one that has none. Nor is it told that one is gone which it never heard of.
    """
    heard = Heard()
    told = Telling(heard)  # type: ignore[arg-type]
    for step in range(20):
        clock[0] += 1
        told.here(7, f"step-{step}", "memory", kept(f"step-{step}", only=True))
        if step:
            told.gone(7, f"step-{step - 1}")
    said = [(each["name"], each["done_bytes"]) for each in heard]
    assert said == [("step-0", 10), ("step-10", 10), ("step-0", 0)]
    heard.clear()
    told.gone(7, "step-19")
    assert [(each["name"], each["done_bytes"]) for each in heard] == [("step-10", 0)]


def test_copies_of_durable_checkpoints_are_told_of_each_time(clock: list[float]) -> None:
    """They come by the minute."""
    heard = Heard()
    told = Telling(heard)  # type: ignore[arg-type]
    assert clock == [1000.0]
    for step in range(3):
        told.here(7, f"durable-{step}", "memory", kept(f"durable-{step}", only=False))
    assert len(heard) == 3


def test_of_checkpoints_long_gone_nothing_is_remembered(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent runs for months, a job saves every second."""
    monkeypatch.setattr(telling, "REMEMBERED", 3)
    told = Telling(Heard())  # type: ignore[arg-type]
    for job in range(100):
        told.progress(job, 1000, "step-1", 10, 5)
        told.here(job, "step-1", "memory", kept("step-1", only=True))
        told.here(job, "step-2", "memory", kept("step-2", only=True))
    assert clock == [1000.0]
    assert [len(known) for known in vars(told).values() if hasattr(known, "maxsize")] == [3, 3, 3, 0]
