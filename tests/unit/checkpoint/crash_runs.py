"""Runs under the preloaded fault library: `crash_runs.py kill|fail ROOT SCENARIO STRIDE`, `crash_runs.py record ROOT SCENARIO TRACE`.

kill and fail: at every STRIDE-th operation of a scenario the process is killed, or one operation fails; then a fresh one
must restore what had been saved, or something later. Prints a JSON line: points tried, and what went wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np

from slurmext.checkpoint.engine import CheckpointError, Engine, Sharded, folder, replicated, retention, writer
from slurmext.checkpoint.engine.crew import Crew
from slurmext.testing.faultfs import Faults, Mode

writer.WORTH_FOLLOWING = 0  # small as they are, these are written while they are being copied
FROZEN = np.arange(1 << 18, dtype=np.float32)
patience = {"s": 30.0}
"""How long ranks wait for each other: long, but where one may fail for good every time."""
KILLS = [(Mode.KILL_BEFORE, 0), (Mode.KILL_AFTER, 0), (Mode.KILL_HALF, 0)]
FAILURES = [(Mode.FAIL_ONCE, errno.EIO), (Mode.FAIL_ONCE, errno.ENOSPC), (Mode.FAIL_ON, errno.ENOSPC), (Mode.SHORT, 0)]


def state_of(step: int, rank: int = 0, world: int = 1) -> dict:
    """Arrays that all tell the step, one that never changes, and a plain value."""
    state: dict = {
        "frozen": FROZEN.copy(),
        "moving": np.full((40, 50), step, np.int64),
        "small": np.full(3, step),
        "step": step,
    }
    if world > 1:
        state["frozen"] = replicated(state["frozen"], world)
        state["moving"] = Sharded(local=state["moving"], shape=(40 * world, 50), offset=(40 * rank, 0))
    return state


def is_state_of(step: int, state: dict) -> bool:
    """Whether every array is that of the step."""
    frozen, moving = (getattr(state[name], "local", state[name]) for name in ("frozen", "moving"))
    return bool(
        (frozen == FROZEN).all() and (moving == step).all() and (state["small"] == step).all() and state["step"] == step
    )


def train(root: Path, told, *, rank: int = 0, world: int = 1) -> None:
    """Restores, then saves five steps: one at a time, then two at once. `told(step)` once a step is on disk."""
    with (
        contextlib.suppress(CheckpointError),
        Engine(root, rank=rank, world=world, patience_s=patience["s"], threads=1) as engine,
    ):
        with contextlib.suppress(CheckpointError):
            engine.restore(state_of(0, rank, world))
        for steps in ((1,), (2,), (3, 4), (5,)):
            tickets = []
            for step in steps:
                with contextlib.suppress(CheckpointError):
                    tickets.append(engine.save(step, state_of(step, rank, world)))
            for ticket in tickets:
                with contextlib.suppress(CheckpointError):
                    path = ticket.result()
                    told(ticket.step)
                    told(*damage(path))
            engine.wait()


def damage(path: Path) -> list[str]:
    """What is wrong with a checkpoint that was just told to be on disk, if anything is (and it is still there)."""
    saved = [saved for saved in folder.saved_in(path.parent) if saved.path == path]
    return [f"bad {path.name}: {why}" for item in saved if (why := retention.verify(item, Crew(1)))]


def alone(root: Path, told) -> None:
    """One process."""
    train(root, told)


def two_ranks(root: Path, told) -> None:
    """Two ranks; they are threads here, so that one kill takes both."""
    other = threading.Thread(target=train, args=(root, lambda *_: None), kwargs={"rank": 1, "world": 2}, daemon=True)
    other.start()
    train(root, told, world=2)
    other.join()


SCENARIOS = {"alone": (alone, 1), "two_ranks": (two_ranks, 2)}


def attempt(scenario: str, root: Path, mode: Mode, point: int, error: int) -> tuple[int, int, list[str]]:
    """(the last step told to be on disk, operations, damage seen) of a run in a child with one fault."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            faults = Faults()
            faults.start(root, mode, point, error)
            SCENARIOS[scenario][0](root, lambda *told: [os.write(writer, f"{item}\n".encode()) for item in told])
            os.write(writer, b"ops %d\n" % faults.stop())
        except BaseException as problem:  # noqa: BLE001 - told
            os.write(writer, f"bad run: {problem!r}\nops 1\n".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        lines = file.read().splitlines()
    os.waitpid(child, 0)
    told = [int(line) for line in lines if line.isdecimal()]
    ops = [int(line[4:]) for line in lines if line.startswith("ops")]
    return max(told, default=0), ops[0] if ops else 0, [line for line in lines if line.startswith("bad")]


def problem_after(scenario: str, root: Path, last: int) -> str | None:
    """What is wrong with what a new run finds, in a child; None when nothing is."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(writer, (look(root, last, SCENARIOS[scenario][1]) or "").encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read()
    status = os.waitpid(child, 0)[1]
    return told or (f"status {status}" if status else None)


def look(root: Path, last: int, world: int) -> str | None:
    """Restore, and save and restore once more; what is wrong. One process reads what all ranks wrote."""
    try:
        state = state_of(-1)
        state["moving"] = np.full((40 * world, 50), -1)
        if world > 1:
            state = {name: replicated(value, 1) if isinstance(value, np.ndarray) and name != "small" else value
                     for name, value in state.items()}  # fmt: skip
        with Engine(root) as engine:
            found = engine.restore(state)
            step = found[0] if found else 0
            if step < last:
                return f"step {last} was on disk, restored was {step}"
            if found and not is_state_of(step, found[1]):
                return f"what was restored is not step {step}"
            engine.save(99, state_of(99), wait=True)
        with Engine(root) as engine:
            again = engine.restore()
            if again is None or not is_state_of(99, again[1]):
                return "could not go on saving"
        left = [name for name in os.listdir(root) if name.startswith((".new", ".old"))]
        if left:
            return f"left behind: {left}"
    except Exception as error:  # noqa: BLE001 - told
        return f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    """See above."""
    what, root, scenario = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if what == "record":
        return record(root, scenario, Path(sys.argv[4]))
    stride = int(sys.argv[4])
    patience["s"] = 0.7 if what == "fail" else 30.0
    problems, points = [], 0
    for mode, error in KILLS if what == "kill" else FAILURES:
        point = 1
        while True:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            last, ops, bad = attempt(scenario, root, mode, point, error)
            problem = (bad and bad[0]) or problem_after(scenario, root, last)
            points += 1
            if problem:
                problems.append(f"{mode.name} {errno.errorcode.get(error, '')} at operation {point}: {problem}")
            if ops and (what == "kill" or point > ops):
                break  # the run ended before that operation
            point += stride
    print(json.dumps({"points": points, "problems": problems}))
    return 0


def record(root: Path, scenario: str, trace: Path) -> int:
    """One undisturbed run, into a trace; a mark for every step that is on disk."""
    root.mkdir()
    faults = Faults()
    faults.start(root, Mode.COUNT)
    faults.trace(trace)
    SCENARIOS[scenario][0](root, lambda *told: [faults.mark(str(item)) for item in told])
    faults.trace(None)
    faults.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
