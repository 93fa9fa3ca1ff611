"""Ranks come to one step without talking in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import slurmext
from slurmext.checkpoint.board import ABANDONED, Board
from slurmext.checkpoint.engine.folder import saved_in
from slurmext.checkpoint.errors import CheckpointError
from slurmext.checkpoint.gate import ANY, NEVER, Gate
from slurmext.checkpoint.ranks import here

ROOT = Path(slurmext.__file__).parent.parent


@pytest.mark.parametrize(("env", "rank", "world"), [
    ({}, 0, 1), ({"RANK": "2", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 2, 4),
    ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, 3, 4), ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 0, 1),
    ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, 1, 2), ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 1, 2),
])  # fmt: skip
def test_which_rank_this_is(env, rank, world):
    """The launcher says, then srun; a batch script is one process however many tasks its job has."""
    place = here(env=env)
    assert (place.rank, place.world) == (rank, world)


def test_what_is_given_wins_and_must_make_sense():
    """rank= and world= are for launchers nobody knows."""
    assert here(1, 3, env={}).world == 3
    with pytest.raises(CheckpointError, match="rank=3, world=3"):
        here(3, 3, env={})


def test_a_board_survives_what_is_half_written(tmp_path):
    """A record that does not match its checksum, or a missing file, reads as nothing."""
    board = Board(tmp_path, run="x", rank=0)
    board.request(3, "signal")
    assert board.requested() == (3, "signal")
    path = tmp_path / ".ranks-x" / "request"
    content = path.read_bytes()
    path.write_bytes(content[:9] + b"9" + content[10:])
    assert board.requested() == (0, "")
    path.unlink()
    assert board.requested() == (0, "")
    board.decide(2, ABANDONED)
    assert board.decided() == (2, ABANDONED, "")
    assert board.promised(5) == (0, 0, "")


def test_nobody_passes_a_promise():
    """The training thread races through steps while the other freezes it: it never goes past the promised step."""
    for seed in range(30):
        gate, chance, passed = Gate(), random.Random(seed), []
        stop = threading.Event()

        def train(gate=gate, passed=passed, stop=stop):
            step = 0
            while not stop.is_set():
                step += 1
                if gate.pass_by(step):
                    passed.append(step)
                    gate.meet(step, 5)

        thread = threading.Thread(target=train)
        thread.start()
        time.sleep(chance.random() * 0.005)
        promise = gate.freeze(0, alone=False)
        assert gate.reach(promise, 5) == promise == gate.step
        time.sleep(0.002)
        assert gate.step == promise
        assert gate.reach(promise + 3, 5) == promise + 3
        stop.set()
        gate.thaw()
        thread.join()
        assert promise in passed


def test_a_quiet_state_is_frozen_where_it_is():
    """Between a boundary and the next entry nobody need wait for the training thread, which may be stuck."""
    gate = Gate()
    gate.boundary(4)
    assert gate.freeze(0, alone=False) == 4 and gate.reach(4, 0) == 4 and not gate.hand_over()
    entered = threading.Thread(target=gate.enter)
    entered.start()
    entered.join(0.1)
    assert entered.is_alive(), "it waits for the snapshot"
    gate.thaw()
    entered.join(5)
    assert not entered.is_alive() and gate.stop_at == NEVER


def test_alone_any_step_will_do():
    """A single process need not promise anything: a program may count backwards."""
    gate = Gate()
    gate.step = 100
    assert gate.freeze(0, alone=True) == ANY
    assert gate.pass_by(3)


RANKS = """
    import os, random, sys, time
    import numpy as np
    from slurmext.checkpoint import Checkpointer
    rank, world, steps = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(sys.argv[2])
    state = {"w": np.zeros(1000), "own": np.full(10, rank), "n": 0}
    ckpt = Checkpointer(state, sys.argv[1], every_s=float(sys.argv[3]) if len(sys.argv) > 3 else None)
    first = ckpt.restore() or 0
    assert (state["w"] == first).all() and state["n"] == first and state["own"][0] in (rank, 0)  # a new rank has rank 0's
    print("ready", first, flush=True)
    chance = random.Random(rank)
    for step in range(first + 1, steps + 1):
        state["w"] += 1
        state["n"] = step
        time.sleep(0.004 * chance.random())
        if ckpt.due(step):
            ckpt.save(step)
            sys.stdout.write(f"saved {step}\\n"); sys.stdout.flush()  # in one piece, whatever ends us
    ckpt.close()
"""


_started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_left():
    yield
    for process in _started:
        process.kill()
        process.wait()
    _started.clear()


def launch(code: str, world: int, *arguments: object) -> list[subprocess.Popen]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    common = clean | {
        "PYTHONPATH": str(ROOT),
        "WORLD_SIZE": str(world),
        "OPENBLAS_NUM_THREADS": "1",
        "MASTER_PORT": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=common | {"RANK": str(rank)},
        )
        for rank in range(world)
    ]  # fmt: skip
    _started.extend(ranks)
    return ranks


def said(ranks: list[subprocess.Popen]) -> list[list[str]]:
    return [rank.communicate(timeout=60)[0].splitlines() for rank in ranks]


def steps(ranks: list[subprocess.Popen]) -> list[list[int]]:
    """Where each rank saved."""
    return [[int(line.split()[1]) for line in lines if line.startswith("saved")] for lines in said(ranks)]


def test_one_signal_to_one_rank(tmp_path):
    """Ranks that run at their own pace save at one step; it need not be the first rank that is told."""
    ranks = launch(RANKS, 4, tmp_path, 100_000)
    for rank in ranks:
        assert rank.stdout.readline() == "ready 0\n"
    last = 0
    for target in (2, 0):
        ranks[target].send_signal(signal.SIGUSR1)
        (words,) = {rank.stdout.readline() for rank in ranks}
        assert words.startswith("saved ") and int(words.split()[1]) > last
        last = int(words.split()[1])


def test_every_rank_is_told_at_once_and_again(tmp_path):
    """A signal to all ranks is one save."""
    ranks = launch(RANKS, 3, tmp_path, 900)
    for rank in ranks:
        rank.stdout.readline()
    time.sleep(0.3)
    for _ in range(20):
        for rank in ranks:
            rank.send_signal(signal.SIGUSR1)
    saved = steps(ranks)
    assert len({tuple(each) for each in saved}) == 1 and 1 <= len(saved[0]) <= 2, saved


def test_rank_0_keeps_the_time(tmp_path):
    """Saves that nobody asked for happen in all ranks at the same steps."""
    saved = steps(launch(RANKS, 3, tmp_path, 1200, 0.3))
    assert len({tuple(each) for each in saved}) == 1 and len(saved[0]) >= 3, saved


def test_a_term_to_all_and_other_numbers_of_ranks(tmp_path):
    """Saved by four ranks, gone on with by two, by three: from the very step, each rank with what was its own."""
    last = 0
    for world in (4, 2, 3):
        ranks = launch(RANKS, world, tmp_path, 100_000)
        for rank in ranks:
            assert rank.stdout.readline() == f"ready {last}\n"
        time.sleep(0.3)
        for rank in ranks:
            rank.send_signal(signal.SIGTERM)
        said_so = {each[-1] for each in steps(ranks) if each}  # a rank may die before it does
        assert {rank.returncode for rank in ranks} == {-signal.SIGTERM}
        newest = saved_in(tmp_path)[0].step
        assert newest > last and said_so <= {newest}, said_so
        last = newest


def test_a_rank_that_ends_does_not_hold_the_others_up(tmp_path):
    """One rank is done and gone when the signal comes: the others say so and go on."""
    ranks = launch("""
        import os, sys, time
        from slurmext.checkpoint import Checkpointer
        ckpt = Checkpointer({"n": 0}, sys.argv[1], every_s=None)
        ckpt.restore()
        print("ready", flush=True)
        if os.environ["RANK"] == "1":
            ckpt.close()
            sys.exit()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            if ckpt.due():
                ckpt.save(1)
            time.sleep(0.01)
        print("done", flush=True)
    """, 2, tmp_path)  # fmt: skip
    for rank in ranks:
        rank.stdout.readline()
    ranks[1].wait(30)
    ranks[0].send_signal(signal.SIGUSR1)
    began = time.monotonic()
    text = "\n".join(said(ranks)[0])
    assert "did not agree" in text and text.endswith("done") and time.monotonic() - began < 20
