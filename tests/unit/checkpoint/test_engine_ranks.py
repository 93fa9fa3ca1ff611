"""The engine, several ranks: one commit, one choice on restore, any other number of ranks afterwards.

The ranks are threads here; on a cluster they are processes that share nothing but the directory.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slurmext.checkpoint.engine import CheckpointError, Engine, MismatchError, Sharded, folder, replicated, session

WHOLE = np.arange(1201 * 77, dtype=np.float32).reshape(1201, 77)
BIG = np.random.default_rng(1).standard_normal((3000, 500))


def ranks(world: int, work: Callable[[int], object]) -> list:
    """Run `work(rank)` in all ranks at once; their results, exceptions included."""
    results: list = [None] * world

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def part(rank: int, world: int, axis: int, *, empty: bool = False) -> Sharded:
    length = WHOLE.shape[axis]
    per = -(-length // world)
    low, high = min(rank * per, length), min(rank * per + per, length)
    box = [slice(None), slice(None)]
    box[axis] = slice(low, high)
    local = np.ascontiguousarray(WHOLE[tuple(box)])
    return Sharded(
        local=local * (not empty), shape=WHOLE.shape, offset=tuple(low if i == axis else 0 for i in range(2))
    )


def state_of(rank: int, world: int, axis: int = 0, *, empty: bool = False) -> dict:
    return {
        "w": part(rank, world, axis, empty=empty),
        "big": replicated(BIG * (not empty), world),
        "mine": np.full(5, rank),
        "n": rank,
    }


def save(place: Path, world: int, *steps: int, axis: int = 0) -> list:
    def work(rank: int) -> list:
        with Engine(place, rank=rank, world=world, patience_s=20) as engine:
            tickets = [engine.save(step, state_of(rank, world, axis)) for step in steps]
            for ticket in tickets:
                ticket.result()
            return tickets

    return ranks(world, work)


def assert_restores(place: Path, world: int, wanted: int, axis: int = 0) -> list:
    def work(rank: int) -> tuple[int, dict]:
        state = state_of(rank, world, axis, empty=True)
        with Engine(place, rank=rank, world=world, patience_s=20) as engine:
            step, found = engine.restore(state)
        assert (state["w"].local == part(rank, world, axis).local).all() and (state["big"].local == BIG).all()
        return step, found

    results = ranks(world, work)
    assert [getattr(result, "args", result[0] if isinstance(result, tuple) else result) for result in results] == [
        wanted
    ] * world
    return results


def test_four_ranks_then_two_then_three_then_one(tmp_path):
    """What four ranks saved by rows two restore by columns, three by rows again, one whole, four by columns."""
    save(tmp_path, 4, 10)
    for world, axis, step in ((2, 1, 20), (3, 0, 30), (1, 0, 40), (4, 1, 50)):
        assert_restores(tmp_path, world, step - 10, axis)
        save(tmp_path, world, step, axis=axis)
    found = assert_restores(tmp_path, 4, 50, 1)
    assert [result[1]["n"] for result in found] == [0, 1, 2, 3]  # with as many ranks each has its own values
    assert [result[1]["mine"][0] for result in found] == [0, 1, 2, 3]


def test_replicated_arrays_are_written_once(tmp_path):
    """Each of four ranks writes a quarter of what all hold; the checkpoint has it once."""
    tickets = [mine[0] for mine in save(tmp_path, 4, 1)]
    total = BIG.nbytes + WHOLE.nbytes
    assert sum(ticket.nbytes for ticket in tickets) < total * 1.02
    assert max(ticket.nbytes for ticket in tickets) < total / 4 * 1.05
    assert len({ticket.path for ticket in tickets}) == 1 and tickets[0].path.name == "save-00000001-step-1"


def test_one_damaged_rank_s_file_and_all_take_the_one_before(tmp_path, capsys):
    """Every rank restores the same checkpoint, though only one of them sees the damage."""
    save(tmp_path, 3, 10, 20)
    saved = folder.saved_in(tmp_path)[0]
    written = saved.manifest().parts[2]
    (piece,) = [piece for piece in written.pieces if piece.name == "state['w']"]
    block = written.blocks[max(i for i, start in enumerate(written.starts) if start <= piece.at)]
    bad = saved.path / written.packs[block.pack][0]
    content = bytearray(bad.read_bytes())
    content[block.offset + 10] ^= 4
    bad.write_bytes(content)
    assert_restores(tmp_path, 3, 10)
    assert f"rank 2: {bad.name} does not match" in capsys.readouterr().err


def test_one_rank_cannot_write(tmp_path):
    """No rank takes a save for done that one of them could not write; the next one works."""

    def work(rank: int) -> str:
        with Engine(tmp_path, rank=rank, world=3, patience_s=20) as engine:
            state = state_of(rank, 3)
            if rank == 1:
                engine.open()
                state["fault"] = np.zeros(1)
                ticket = engine.save(5, state)
            else:
                ticket = engine.save(5, state)
            ticket.result()
            return ticket.path.name

    real = os.fsync
    hit = threading.Event()

    def fail_once(fd: int) -> None:
        if "rank-00001" in str(Path(f"/proc/self/fd/{fd}").readlink()) and not hit.is_set():
            hit.set()
            raise OSError(5, "Input/output error")
        real(fd)

    os.fsync = fail_once
    try:
        results = ranks(3, work)
    finally:
        os.fsync = real
    assert all(isinstance(result, CheckpointError) for result in results)
    assert all("rank 1" in str(result) and "I/O error" in str(result) for result in results)
    assert folder.saved_in(tmp_path) == []
    save(tmp_path, 3, 6)
    assert_restores(tmp_path, 3, 6)


def test_another_model_in_one_rank_is_told_to_all(tmp_path):
    """A mismatch that one rank finds stops all, with that rank and array named."""
    save(tmp_path, 2, 1)

    def work(rank: int) -> object:
        state = state_of(rank, 2, empty=True)
        if rank == 1:
            state["mine"] = np.zeros(6, int)
        with Engine(tmp_path, rank=rank, world=2, patience_s=20) as engine:
            return engine.restore(state)

    results = ranks(2, work)
    assert all(isinstance(result, MismatchError) and "rank 1: state['mine']" in str(result) for result in results)


def test_a_missing_rank_is_named(tmp_path):
    """The others do not wait for ever, and say for whom they waited."""
    results = ranks(3, lambda rank: None if rank == 2 else save_alone(tmp_path, rank))
    assert "waited 1 s for rank 2 in save-1-1" in str(results[0])
    assert "waited 1 s for rank 0" in str(results[1])


def save_alone(place: Path, rank: int) -> object:
    with Engine(place, rank=rank, world=3, patience_s=1) as engine:
        return engine.save(1, {"n": rank}, wait=True)


def test_a_second_job_s_ranks_are_not_let_in(tmp_path):
    """A rank of another job on the same directory is told who uses it, also while rank 0 waits for its own rank 1."""

    def work(rank: int) -> object:
        with Engine(tmp_path, rank=rank, world=2, key="job 41", patience_s=30) as engine:
            if rank == 0:
                return engine.save(1, {"n": 0}, wait=True).step
            with pytest.raises(CheckpointError, match="in use by job 41, give this job its own"):
                Engine(tmp_path, rank=1, world=2, key="job 42", patience_s=0.5).open()
            with pytest.raises(CheckpointError, match="which counts 2 ranks where this one"):
                Engine(tmp_path, rank=1, world=4, key="job 41", patience_s=0.5).open()
            return engine.save(1, {"n": 1}, wait=True).step

    assert ranks(2, work) == [1, 1]


def test_what_an_earlier_run_left_is_not_mistaken(tmp_path):
    """Greetings and answers of a run that was killed mean nothing to the next one."""
    save(tmp_path, 2, 1)
    left = tmp_path / session.FOLDER
    assert (left / "now").exists()
    (left / "hello-1").write_text('{"nonce": "old", "key": "k", "world": 2}')
    started = time.monotonic()
    save(tmp_path, 2, 2)
    assert_restores(tmp_path, 2, 2)
    assert time.monotonic() - started < 10


def test_what_ranks_tell_each_other_does_not_pile_up(tmp_path):
    """Files of an exchange go when everybody has read them."""
    save(tmp_path, 2, *range(1, 8))
    (of_this_run,) = [path for path in (tmp_path / session.FOLDER).iterdir() if path.is_dir()]
    assert len(list(of_this_run.iterdir())) <= 2


def test_each_node_has_its_own_files_in_memory(tmp_path):
    """A faster place that holds one rank's files only is used for those; what the others wrote is read from the disk."""
    save(tmp_path / "disk", 2, 1)
    saved = folder.saved_in(tmp_path / "disk")[0]

    def work(rank: int) -> int:
        near = tmp_path / f"memory-{rank}"
        (near / saved.path.name).mkdir(parents=True)
        for path in (saved.path / "manifest.json", *saved.path.glob(f"rank-0000{rank}-*")):
            shutil.copy(path, near / saved.path.name)
        if rank == 1:
            (own,) = (near / saved.path.name).glob("*.bin")
            own.write_bytes(bytes(own.stat().st_size))  # damaged: then the disk's
        state = state_of(rank, 2, empty=True)
        with Engine(tmp_path / "disk", rank=rank, world=2, tiers=[near], patience_s=20) as engine:
            step, _ = engine.restore(state)
        assert (state["w"].local == part(rank, 2, 0).local).all() and (state["big"].local == BIG).all()
        return step

    assert ranks(2, work) == [1, 1]


def test_commit_follows_the_last_rank_within_moments(tmp_path):
    """From the last rank's write to everybody's commit it is a few small files: well under a tenth of a second."""

    def work(rank: int) -> list[float]:
        with Engine(tmp_path, rank=rank, world=4, patience_s=20) as engine:
            extra = []
            for step in range(1, 8):
                ticket = engine.save(step, {"w": np.zeros(1000), "n": rank}, wait=True)
                extra.append(ticket.durable_s - ticket.write_s - ticket.snapshot_s)
                engine.wait()
            return sorted(extra)

    results = ranks(4, work)
    assert all(isinstance(result, list) for result in results), results
    assert max(result[3] for result in results) < 0.5  # seconds, the median, on a machine that does other things too
