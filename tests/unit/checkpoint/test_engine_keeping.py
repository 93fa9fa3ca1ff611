"""What stays on disk: what did not change once more at most, and never without an older checkpoint that was verified."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from slurmext.checkpoint.engine import Engine, folder, snapshot, stream
from slurmext.checkpoint.engine.buffers import BufferPool
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.engine import WRITERS

from .states import LARGE, flip, save, state_of


def test_what_did_not_change_is_linked(tmp_path):
    """Unchanged arrays are written twice, for two checkpoints with nothing in common, and linked from then on."""
    tickets = save(tmp_path, 1, 2, 3, 4)
    full = tickets[0].nbytes
    assert [ticket.new_bytes for ticket in tickets[:2]] == [full, full]
    assert all(ticket.new_bytes <= 8192 for ticket in tickets[2:])
    files = [{path.stat().st_ino for path in saved.path.glob("*.bin")} for saved in folder.saved_in(tmp_path)]
    assert len(files) == 2 and not files[0] & files[1]
    assert save(tmp_path, 5)[0].new_bytes <= 8192  # by another process, too


def test_one_copy_if_that_is_wanted(tmp_path):
    """With copies=1 the second checkpoint already links the first one's."""
    assert save(tmp_path, 1, 2, copies=1)[1].new_bytes <= 8192


def test_linked_bytes_survive_the_checkpoint_they_came_from(tmp_path):
    """Removing old checkpoints takes nothing from those that link their files."""
    save(tmp_path, *range(1, 8))
    with Engine(tmp_path) as engine:
        step, found = engine.restore()
    assert step == 7 and (found["frozen"] == np.arange(LARGE)).all() and (found["w"] == 7).all()


def test_a_file_kept_for_little_is_written_anew(tmp_path):
    """When less than half of a file is still in use the rest is written again, so that the disk does not fill up."""
    arrays_ = {f"a{i}": np.full(LARGE, i, np.float32) for i in range(8)}
    with Engine(tmp_path) as engine:
        for step in range(1, 4):
            engine.save(step, arrays_, wait=True)
            engine.wait()
        for name in list(arrays_)[:6]:
            arrays_[name] += 100
        ticket = engine.save(4, arrays_, wait=True)
    assert ticket.new_bytes == ticket.nbytes


def test_a_damaged_file_does_not_take_two_checkpoints(tmp_path, capsys):
    """A flipped bit in an array that never changes: the newest is named, the one before is restored."""
    save(tmp_path, *range(1, 7))
    newest = folder.saved_in(tmp_path)[0]
    largest = max(newest.path.glob("*.bin"), key=lambda path: path.stat().st_size)
    flip(largest, 500_000)
    state = state_of(0)
    with Engine(tmp_path) as engine:
        assert engine.restore(state)[0] == 5
    assert (state["w"] == 5).all() and (state["frozen"] == np.arange(LARGE)).all()
    told = capsys.readouterr().err
    assert f"{newest.path} is damaged" in told and f"{largest.name} does not match its checksum between bytes" in told


def test_damage_is_found_before_older_ones_go(tmp_path, capsys):
    """A checkpoint that rots before it was verified is not what the older ones are removed for."""
    save(tmp_path, 1, 2)
    newest = folder.saved_in(tmp_path)[0]
    flip(next(newest.path.glob("*.bin")), 10)
    save(tmp_path, 3)
    assert [saved.step for saved in folder.saved_in(tmp_path)] == [3, 1]
    assert f"{newest.path} is damaged" in capsys.readouterr().err


def test_a_save_does_not_wait_for_older_ones_to_be_read_back(tmp_path, monkeypatch):
    """Verifying is given up after the blocks under way when the next save comes, and made good later."""
    state = {"w": np.zeros(12 * stream.BLOCK // 8)}
    real, go_on, reads = os.preadv, threading.Event(), []

    def slow(*arguments):
        reads.append(1)
        go_on.wait(60)
        return real(*arguments)

    with Engine(tmp_path, keep=2) as engine:
        monkeypatch.setattr(os, "preadv", slow)
        engine.save(1, state, wait=True)  # the first is verified at once
        state["w"] += 1
        second = engine.save(2, state)
        go_on.set()
        second.result(60)
        engine.wait()
        assert len(reads) <= WRITERS
        assert not any(saved.verified for saved in folder.saved_in(tmp_path))
        for step in (3, 4):
            state["w"] += 1
            engine.save(step, state, wait=True)
            engine.wait()
    assert [(saved.step, saved.verified) for saved in folder.saved_in(tmp_path)] == [(4, False), (3, True)]


def test_padding_between_arrays_does_not_count_as_a_change():
    """Whatever a buffer held before, equal states make equal bytes: only so is recognised what did not change."""
    odd = {f"a{number}": np.full(7 + number, number, np.int8) for number in range(50)}
    pool, crew = BufferPool(Crew(1)), Crew(1)
    for buffer in (used := [pool.take(1 << 16)[0] for _ in range(2)]):
        buffer.view[:] = os.urandom(1 << 10) * (buffer.capacity >> 10)
    for buffer in used:
        pool.give_back(buffer)
    first, second = (snapshot.begin(odd, rank=0, world=1, pool=pool) for _ in range(2))
    for taken in (first, second):
        taken.fill(crew)
    assert first.buffer is not second.buffer
    assert first.buffer.view[: first.layout.size] == second.buffer.view[: second.layout.size]


def test_all_older_ones_that_are_kept_are_verified(tmp_path):
    """With keep=3 the two that stand behind the newest were both read back."""
    save(tmp_path, *range(1, 6), keep=3)
    assert [(saved.step, saved.verified) for saved in folder.saved_in(tmp_path)] == [(5, False), (4, True), (3, True)]


@pytest.fixture
def slow_disk(monkeypatch):
    """Reading a block takes a while."""
    real = os.preadv

    def read(*arguments):
        time.sleep(0.05)
        return real(*arguments)

    monkeypatch.setattr(os, "preadv", read)


def test_a_program_that_saves_all_the_time_keeps_a_verified_one_and_the_disk_bounded(tmp_path, slow_disk):
    """Each save comes while older ones are read back: nothing goes until one of them is good, and they do not pile up."""
    state = {"w": np.zeros(12 * stream.BLOCK // 8)}
    there: list[list[folder.Saved]] = []
    with Engine(tmp_path, keep=2) as engine:
        for step in range(1, 10):
            state["w"] += 1
            engine.save(step, state, wait=True)
            there.append(folder.saved_in(tmp_path))
            if there[-1][-1].step > 1:  # one has gone
                assert any(saved.verified for saved in there[-1][1:])
    assert max(map(len, there)) == 4
    assert there[-1][-1].step > 1


def test_a_damaged_one_that_was_verified_once_is_not_what_is_kept(tmp_path, capsys):
    """Restore found it bad: whatever its mark says, the one that was restored is not removed for it."""
    save(tmp_path, *range(1, 5), keep=3)
    for saved in folder.saved_in(tmp_path)[:2]:
        flip(min(saved.path.glob("*.bin"), key=lambda path: path.stat().st_size), 10)  # the one that no other links
    with Engine(tmp_path, keep=3) as engine:
        assert engine.restore(state_of(0))[0] == 2
        for step in (5, 6):
            engine.save(step, state_of(step), wait=True)
            engine.wait()
    assert [saved.step for saved in folder.saved_in(tmp_path)] == [6, 5, 2]
    assert capsys.readouterr().err.count("is damaged") >= 2
