"""The engine takes what is good, from wherever it is, and names what is not: damaged, another model's, unfit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmext.checkpoint.engine import (
    CheckpointError,
    Engine,
    MismatchError,
    Sharded,
    arrays,
    folder,
    reader,
    retention,
)
from slurmext.checkpoint.engine.crew import Crew

from .states import flip, save, state_of


def test_the_only_checkpoint_is_damaged(tmp_path):
    """The program's arrays stay as they were, and the run starts anew."""
    save(tmp_path, 1)
    only = folder.saved_in(tmp_path)[0]
    (only.path / folder.VERIFIED).unlink()
    flip(next(only.path.glob("*.bin")), 10)
    state = state_of(-1)
    with Engine(tmp_path) as engine:
        assert engine.restore(state) is None
    assert (state["w"] == -1).all()


def test_damage_after_verification_with_nothing_left(tmp_path):
    """When a damaged checkpoint was already read into the state and there is no other, that is an error, not a fresh start."""
    save(tmp_path, 1)
    flip(next(folder.saved_in(tmp_path)[0].path.glob("*.bin")), 10)
    with Engine(tmp_path) as engine, pytest.raises(CheckpointError, match="overwritten part of the state"):
        engine.restore(state_of(-1))


def test_every_byte_is_covered(tmp_path):
    """A bit flipped anywhere in any file of a checkpoint is noticed."""
    save(tmp_path, 1)
    saved, chance = folder.saved_in(tmp_path)[0], random.Random(3)
    assert retention.verify(saved, Crew(2)) is None
    for path in (next(saved.path.glob("*.bin")), saved.path / "manifest.json"):
        for _ in range(60):
            position = chance.randrange(path.stat().st_size)
            flip(path, position)
            assert retention.verify(saved, Crew(2)), (path, position)
            flip(path, position)
    assert retention.verify(saved, Crew(2)) is None


@pytest.mark.parametrize("how", ["cut", "longer", "empty", "gone", "a pipe", "a folder"])
@pytest.mark.parametrize("which", ["pack", "manifest"])
def test_a_file_that_is_not_what_it_should_be(tmp_path, capsys, which, how):
    """Truncated, too long, missing or no file at all: the checkpoint is named and the one before restored."""
    save(tmp_path, 1, 2)
    newest = folder.saved_in(tmp_path)[0].path
    path = next(newest.glob("*.bin")) if which == "pack" else newest / "manifest.json"
    content = path.read_bytes()
    path.unlink()
    match how:
        case "cut":
            path.write_bytes(content[:-100])
        case "longer":
            path.write_bytes(content + b"x")
        case "empty":
            path.touch()
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
    state = state_of(0)
    with Engine(tmp_path) as engine:
        assert engine.restore(state)[0] == 1
    assert (state["w"] == 1).all()
    told = capsys.readouterr().err
    assert f"{newest} is damaged and not used: {path.name}" in told


@pytest.mark.parametrize(("change", "words"), [
    (lambda s: s | {"w": np.zeros(999, np.float32)}, r"state\['w'\] is float32 \(999,\) here and float32 \(1000,\) in the checkpoint"),
    (lambda s: s | {"w": np.zeros(1000)}, r"state\['w'\] is float64 \(1000,\) here and float32"),
    (lambda s: s | {"w": 5, "more": np.zeros(3)}, r"state\['more'\] is here and not in the checkpoint"),
    (lambda s: {"w": s["w"], "step": 0}, r"state\['frozen'\] is in the checkpoint and not here"),
    (lambda s: s | {"step": np.zeros(2)}, r"state\['step'\] is float64 \(2,\) here and no array in the checkpoint"),
])  # fmt: skip
def test_another_model_is_named_by_its_first_difference(tmp_path, change, words):
    """Nothing is filled in when one array differs, is missing or is too many."""
    save(tmp_path, 1)
    state = change(state_of(-1))
    with Engine(tmp_path) as engine, pytest.raises(MismatchError, match=words):
        engine.restore(state)
    assert not isinstance(state["w"], np.ndarray) or (state["w"] <= 0).all()


def test_a_renamed_checkpoint_is_not_taken_for_a_newer_one(tmp_path, capsys):
    """A folder's name says which save it is, and its manifest has to say the same."""
    save(tmp_path, 1, 2)
    folder.saved_in(tmp_path)[1].path.rename(tmp_path / "save-00000009-step-7")
    with Engine(tmp_path) as engine:
        assert engine.restore(state_of(0))[0] == 2
    assert "save-00000009-step-7 is damaged and not used: manifest.json belongs to step 1" in capsys.readouterr().err


def test_arrays_that_cannot_be_filled_are_named(tmp_path):
    """A read-only array is told before anything is changed."""
    save(tmp_path, 1)
    state = state_of(-1)
    state["w"].flags.writeable = False
    with Engine(tmp_path) as engine, pytest.raises(MismatchError, match=r"state\['w'\] is read-only here"):
        engine.restore(state)
    assert (state["w"] == -1).all()


def test_what_needs_room_is_read_a_little_at_a_time():
    """Arrays that are not filled in place share a bounded room; one that is larger than that has it alone."""
    strided = [reader.Want(name=str(size), leaf=arrays.leaf(np.zeros((size, 2), np.int8)[:, 0], "x"))
               for size in (reader.ROOM // 2, reader.ROOM // 2, 2, reader.ROOM, reader.ROOM + 1, 5)]  # fmt: skip
    straight = reader.Want(name="straight", leaf=arrays.leaf(np.zeros(10), "x"))
    batches = [[want.name for want in batch] for batch in reader._batches([straight, *strided])]
    half, whole = str(reader.ROOM // 2), str(reader.ROOM)
    assert batches == [["straight", half, half], ["2"], [whole], [str(reader.ROOM + 1)], ["5"]]


def test_another_program_s_checkpoint(tmp_path):
    """Code and configuration have an identity; a checkpoint of another is refused with both named."""
    save(tmp_path, 1, identity="abc")
    with Engine(tmp_path, identity="xyz") as engine, pytest.raises(MismatchError, match="'abc', this is 'xyz'"):
        engine.restore()
    with Engine(tmp_path) as engine:
        assert engine.restore()[0] == 1


def test_the_clock_jumps(tmp_path, monkeypatch):
    """The newest checkpoint is the one saved last, whatever the clock said."""
    for step, now in ((1, 2e9), (2, 1e9), (3, 3e9), (4, 5.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        save(tmp_path, step)
    with Engine(tmp_path) as engine:
        assert engine.restore()[0] == 4


def test_the_fastest_copy_is_read(tmp_path):
    """Of two directories with a checkpoint the first is read; where it is damaged or gone, the other."""
    near, far = tmp_path / "memory", tmp_path / "disk"
    save(far, 1, 2)
    subprocess.run(["cp", "-a", f"{far}/.", str(near)], check=True)
    far_file = next(folder.saved_in(far)[0].path.glob("*.bin"))
    flip(far_file, 10)
    with Engine(far, tiers=[near]) as engine:
        assert engine.restore(state_of(0))[0] == 2
    flip(far_file, 10)
    flip(next(folder.saved_in(near)[0].path.glob("*.bin")), 10)
    with Engine(far, tiers=[near]) as engine:
        step, found = engine.restore(state_of(0))
        assert step == 2 and (found["w"] == 2).all()
        assert engine.save(3, state_of(3), wait=True).path.parent == far


def test_a_checkpoint_that_only_a_copy_is_left_of_counts(tmp_path):
    """The disk lost the newest one, memory still has it: it is restored, and the next save is newer than that."""
    near, far = tmp_path / "memory", tmp_path / "disk"
    save(far, 1, 2)
    subprocess.run(["cp", "-a", f"{far}/.", str(near)], check=True)
    shutil.rmtree(folder.saved_in(far)[0].path)
    with Engine(far, tiers=[near]) as engine:
        assert engine.restore(state_of(0))[0] == 2
        engine.save(3, state_of(3), wait=True)
        assert engine.restore(state_of(0))[0] == 3


def test_checkpoints_of_the_former_format_are_read(tmp_path):
    """A run that was saved by an earlier release goes on, and its checkpoints are verified and pruned like any."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = values.tobytes().ljust(4096, b"\0") + np.float64(2.5).tobytes().ljust(4096, b"\0")
    document = {"dict": [["w", {"dtype": "<f4", "shape": [3, 2], "fortran": True, "array": 0}],
                         ["x", {"dtype": "<f8", "shape": [], "scalar": True, "array": 1}], ["n", 4]]}  # fmt: skip
    body = json.dumps({
        "step": 40, "serial": 3, "saved_at_s": 1.0, "world": 1, "job": None,
        "files": [{"name": "rank-00000.bin", "size": 8192, "digest": hashlib.sha256(content).hexdigest()}],
        "arrays": [{"offset": 0, "size": 24}, {"offset": 4096, "size": 8}], "state": document,
    }).encode()  # fmt: skip
    saved = tmp_path / "save-00000003-step-40"
    saved.mkdir()
    (saved / "rank-00000.bin").write_bytes(content)
    (saved / "manifest.json").write_bytes(
        f"slurmext-checkpoint/1 sha256 {hashlib.sha256(body).hexdigest()}\n".encode() + body
    )
    state = {"w": np.zeros((3, 2), np.float32, order="F"), "x": np.float64(0), "n": 0}
    with Engine(tmp_path) as engine:
        step, found = engine.restore(state)
        assert step == 40 and (state["w"] == values.T).all() and found["x"] == 2.5 and found["n"] == 4
        for more in (41, 42):
            engine.save(more, state, wait=True)
            engine.wait()
    assert [item.step for item in folder.saved_in(tmp_path)] == [42, 41]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_box_is_restored_from_any_boxes(data, tmp_path_factory):
    """An array saved in parts along one axis is restored into a box of any shape and place."""
    place = tmp_path_factory.mktemp("boxes")
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4)))
    whole = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    axis, cut = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 7))
    cut = min(cut, shape[axis])
    parts = np.split(whole, [cut], axis)
    offsets = [(0, 0, 0), tuple(cut if i == axis else 0 for i in range(3))]

    def run(rank: int) -> None:
        with Engine(place, rank=rank, world=2, patience_s=20) as engine:
            local = np.ascontiguousarray(parts[rank])
            engine.save(1, {"w": Sharded(local=local, shape=shape, offset=offsets[rank])}, wait=True)

    other = threading.Thread(target=run, args=(1,))
    other.start()
    run(0)
    other.join()
    low = [data.draw(st.integers(0, n - 1)) for n in shape]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    target = np.zeros([b - a for a, b in zip(low, high, strict=True)], np.int32)
    if data.draw(st.booleans()):
        target = np.asfortranarray(target)
    with Engine(place) as engine:
        engine.restore({"w": Sharded(local=target, shape=shape, offset=tuple(low))})
        assert (engine.restore()[1]["w"] == whole).all()
    assert (target == whole[box]).all()
