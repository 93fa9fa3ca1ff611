"""The engine, one process: exact, bounded in memory, durable when the program ends, and never silent."""

from __future__ import annotations

import itertools
import os
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmext.checkpoint.engine import (
    CheckpointError,
    Engine,
    arrays,
    stream,
)
from slurmext.checkpoint.engine.files import NewFile

from .states import LARGE, save, state_of


def test_the_snapshot_is_of_the_moment(tmp_path):
    """What training changes after `save` has returned is not in the checkpoint."""
    state = {"w": np.zeros(3_000_000)}
    with Engine(tmp_path) as engine:
        ticket = engine.save(1, state)
        state["w"] += 1
        ticket.result()
        assert (engine.restore()[1]["w"] == 0).all()


def test_memory_is_bounded_and_saves_come_in_order(tmp_path):
    """However fast a program saves, two snapshots are held at most, it waits for room, and the last save is the newest."""
    state = {"w": np.zeros(500_000)}
    with Engine(tmp_path) as engine:
        tickets = []
        for step in range(1, 9):
            state["w"][:] = step
            tickets.append(engine.save(step, state))
        assert engine.peak_snapshots <= 2
        assert sum(ticket.waited_s > 0 for ticket in tickets) >= 5
        engine.wait()
        assert all(ticket.done() for ticket in tickets)
        step, found = engine.restore()
    assert step == 8 and (found["w"] == 8).all()


def test_a_state_that_grows(tmp_path):
    """A snapshot that does not fit into the memory of the ones before gets more."""
    with Engine(tmp_path) as engine:
        for step in range(1, 7):
            state = {"w": np.full(step * 200_000, step)}
            engine.save(step, state, wait=True)
            found = engine.restore({"w": np.zeros(step * 200_000, int)})[1]
            assert (found["w"] == step).all()
        assert engine.peak_snapshots <= 2


def test_closed_and_used_again(tmp_path):
    """An engine gives memory and directory back when it is closed, and takes them again when it is needed."""
    engine = Engine(tmp_path)
    for step in range(1, 5):
        engine.save(step, state_of(step))
        engine.close()
        with Engine(tmp_path) as other:
            assert other.restore(state_of(0))[0] == step


def test_a_program_that_ends_finishes_its_save(tmp_path):
    """Nobody waits for the ticket, the program's last line is `save`: the checkpoint is complete."""
    code = "import sys, numpy as np; from slurmext.checkpoint.engine import Engine; Engine(sys.argv[1]).save(7, {'w': np.ones(4_000_000)})"
    subprocess.run([os.sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    with Engine(tmp_path) as engine:
        step, found = engine.restore()
    assert step == 7 and found["w"].sum() == 4_000_000


def test_one_memory_under_two_names_is_written_once(tmp_path):
    """As tied weights are; both names have it again."""
    shared = np.arange(LARGE, dtype=np.float32)
    with Engine(tmp_path) as engine:
        ticket = engine.save(1, {"embed": shared, "head": shared}, wait=True)
        found = engine.restore()[1]
    assert ticket.nbytes == shared.nbytes
    assert (found["embed"] == shared).all() and (found["head"] == shared).all()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_no_space(tmp_path):
    """The error says how much is needed and how much is free; what was saved before stays; saving goes on when there is room."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)], check=True)
    try:
        save(place, 1)
        with Engine(place) as engine:
            ticket = engine.save(2, {"w": np.zeros(1_000_000)})
            with pytest.raises(
                CheckpointError, match=r"no space left \(a checkpoint needs 7.6 MiB, 2.* MiB are free\); .*--ckpt-dir"
            ):
                ticket.result()
            engine.wait()
            assert sorted(os.listdir(place)) == [".lock", "save-00000001-step-1"]
            assert engine.save(3, {"w": np.zeros(10)}, wait=True).path.name == "save-00000002-step-3"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_file_system_without_direct_io(tmp_path, monkeypatch):
    """Where O_DIRECT is refused, at the open or at the first write, the page cache is used."""
    real = os.pwrite

    def refuse(fd, content, offset):
        import fcntl

        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(fd, content, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    save(tmp_path, 1)
    monkeypatch.undo()
    with Engine(tmp_path) as engine:
        assert engine.restore(state_of(0))[0] == 1
    file = NewFile(tmp_path / "x")
    file.write(memoryview(bytearray(4096)), 0)
    file.finish(100)
    file.close()
    assert (tmp_path / "x").stat().st_size == 100


def test_a_forked_process_is_told(tmp_path):
    """A data loader's worker that calls the engine gets an error, and the parent's directory stays its own."""
    with Engine(tmp_path) as engine:
        engine.save(1, {"a": 1}, wait=True)
        child = os.fork()
        if child == 0:
            try:
                engine.save(2, {"a": 2})
            except CheckpointError:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_saving_while_nobody_reads_the_ticket_is_not_silent(tmp_path, capsys):
    """A background save that fails is told on stderr and by the ticket, and the next ones work."""
    with Engine(tmp_path) as engine:
        engine.open()
        (tmp_path / "save-00000001-step-5").write_text("a file in the way")
        bad = engine.save(5, {"a": 1})
        bad.settled.wait(10)
        ok = bad.path is not None
        engine.save(6, {"a": 2}, wait=True)
    assert ok or "step 5 is not saved" in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 300_000), st.booleans()), max_size=12), st.integers(1, 5))
def test_every_row_is_written_by_exactly_one_rank(shapes, world):
    """Replicated arrays are shared out without a gap or an overlap, and about evenly."""
    everyone = tuple(range(world))
    leaves = [
        arrays.Leaf(name=f"a{i}", kind="numpy", dtype="<f4", shape=(rows, width), whole=(rows, width), offset=(0, 0),
                    replicas=everyone if shared else (0,), sharded=True)
        for i, (rows, width, shared) in enumerate(shapes)
    ]  # fmt: skip
    written: dict[str, list[tuple[int, int]]] = {}
    for rank in everyone:
        mine = [leaf for leaf in leaves if rank in leaf.replicas]
        layout = stream.lay_out(mine, rank)
        assert sum(size for _, size in layout.blocks) == layout.size
        for piece in layout.pieces:
            written.setdefault(piece.leaf.name, []).append((piece.first, piece.last))
    for leaf in leaves:
        ranges = sorted(written[leaf.name])
        assert ranges[0][0] == 0 and ranges[-1][1] == leaf.shape[0]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
