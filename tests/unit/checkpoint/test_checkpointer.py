"""What a training job relies on: what was saved comes back, exactly, into the program's own objects."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmext.checkpoint import Checkpointer, CheckpointError
from slurmext.checkpoint.engine import folder, tree

from .programs import ROOT, new_state, restored, save_steps, spoil

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


def same(left, right) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@given(st.dictionaries(st.text(), plain))
def test_plain_values_come_back_exactly(state):
    """Packing and unpacking through JSON keeps type, order and bits, of NaN, -0.0, tuples and bytes as well."""
    document, arrays = tree.pack(state)
    assert arrays == []
    assert same(tree.unpack(json.loads(json.dumps(document)), list.__getitem__), state)


@pytest.mark.parametrize("array", [
    np.arange(12, dtype=np.int16).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.zeros((0, 3)), np.array(5.5),
    np.array([True, False]), np.array(["a", "bc"]), np.array(["2024-01-01"], "M8[D]"), np.arange(10, dtype=">f4")[::3],
    np.array([np.nan, -0.0, np.inf], np.float16), np.arange(6, dtype=np.complex128), np.float32(1.1), np.bool_(1),
])  # fmt: skip
def test_arrays_come_back_exactly(tmp_path, array):
    """Bits, dtype, shape and memory order are those that were saved."""
    with Checkpointer({"a": array, "b": [array]}, tmp_path) as ckpt:
        ckpt.save(1)
    state: dict = {}
    with Checkpointer(state, tmp_path) as ckpt:
        assert ckpt.restore() == 1
    for back in (state["a"], state["b"][0]):
        assert type(back) is type(array) and back.dtype == array.dtype and back.shape == array.shape
        assert back.tobytes() == array.tobytes()
        if array.ndim > 1 and array.size:
            assert back.flags.f_contiguous == array.flags.f_contiguous


def test_restore_fills_the_program_s_own_objects(tmp_path):
    """Arrays, nested dicts and generators that the program holds are loaded in place; the generator goes on as before."""
    state = new_state(2)
    with Checkpointer(state, tmp_path) as ckpt:
        ckpt.save(5)
    wanted = state["rng"].random(4)
    fresh = new_state(0)
    w, opt, m, rng = fresh["w"], fresh["opt"], fresh["opt"]["m"], fresh["rng"]
    rng.random(100)
    with Checkpointer(fresh, tmp_path) as ckpt:
        assert ckpt.restore() == 5
    assert fresh["w"] is w and fresh["opt"] is opt and opt["m"] is m and fresh["rng"] is rng
    assert (w == 2).all() and (m == 2).all() and fresh["epoch"] == 2
    assert (rng.random(4) == wanted).all()


def test_python_s_own_random_state(tmp_path):
    """`random.getstate()`, a tuple of a tuple of big numbers, is a plain value like any other."""
    generator = random.Random(4)
    with Checkpointer({"random": generator.getstate()}, tmp_path) as ckpt:
        ckpt.save(1)
    wanted = generator.random()
    state: dict = {}
    with Checkpointer(state, tmp_path) as ckpt:
        ckpt.restore()
    generator.setstate(state["random"])
    assert generator.random() == wanted


def test_nothing_saved_yet(tmp_path):
    """A first run restores nothing and its state is untouched."""
    assert restored(tmp_path / "new") == (None, -1.0)


def test_old_checkpoints_go_only_behind_a_verified_one(tmp_path):
    """The newest and one older verified checkpoint stay; a damaged older one does not count as the one to keep."""
    save_steps(tmp_path, 10, 20, 30)
    assert [saved.step for saved in folder.saved_in(tmp_path)] == [30, 20]
    spoil(next(tmp_path.glob("save-*-step-30")))
    save_steps(tmp_path, 40)
    assert [saved.step for saved in folder.saved_in(tmp_path)] == [40, 20]


def test_the_newest_save_wins_not_the_highest_step(tmp_path):
    """A run that started over writes lower steps; those are the newest."""
    save_steps(tmp_path, 100, 200, 30)
    assert restored(tmp_path) == (30, 30.0)


@pytest.mark.parametrize(("state", "words"), [
    ({"w": np.zeros((3, 3), np.float32)}, r"state\['w'\] is float32 \(3, 3\) here and float32 \(64, 32\)"),
    ({"w": np.zeros((64, 32))}, "float64"),
    ({"opt": {"m": np.zeros(8)}}, r"state\['opt'\]\['m'\]"),
])  # fmt: skip
def test_another_model_s_checkpoint(tmp_path, state, words):
    """A checkpoint that does not fit is refused as a whole, with the first array that differs."""
    save_steps(tmp_path, 10)
    with Checkpointer(state, tmp_path) as ckpt, pytest.raises(CheckpointError, match=words):
        ckpt.restore()


@pytest.mark.parametrize(("ours", "words"), [
    ({"lr": 0.2, "model": {"width": 64}}, "saved with lr=0.1, and this run has lr=0.2"),
    ({"lr": 0.1, "model": {"width": 32}}, "model.width=64, and this run has model.width=32"),
    ({"lr": 0.1}, "model.width=64, and this run has no model.width"),
    ({"lr": 0.1, "model": {"width": 64}, "a": "x" * 500}, "no a, and this run has a='xxx"),
    ("v2", "a configuration, this is 'v2'"),
])  # fmt: skip
def test_another_configuration_s_checkpoint(tmp_path, ours, words):
    """What is said to be another program's is refused with the first difference; the same, or unsaid, is restored."""
    configuration = {"model": {"width": 64}, "lr": 0.1}
    with Checkpointer({"n": 1}, tmp_path, identity=configuration) as ckpt:
        ckpt.save(3)
    with Checkpointer({"n": 0}, tmp_path, identity=ours) as ckpt, pytest.raises(CheckpointError, match=words):
        ckpt.restore()
    for same in (dict(reversed(configuration.items())), None):
        with Checkpointer({"n": 0}, tmp_path, identity=same) as ckpt:
            assert ckpt.restore() == 3


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), {(1, 2): 3}, lambda: 1])
def test_what_cannot_be_saved_is_named(tmp_path, value):
    """A value without an exact form is refused with its name, and nothing is written."""
    with (
        Checkpointer({"a": [1, {"b": value}]}, tmp_path) as ckpt,
        pytest.raises(CheckpointError, match=r"state\['a'\]\[1\]\['b'\]"),
    ):
        ckpt.save(1)
    assert os.listdir(tmp_path) == [".lock"]


@pytest.mark.parametrize("step", [-1, 2.0, "7", None])
def test_a_step_that_would_not_be_found_again_is_refused(tmp_path, step):
    """Rather than written under a name that no restore looks for; nothing is left of it."""
    with Checkpointer({"n": 1}, tmp_path / "d", signals=False) as ckpt:
        for call in (lambda: ckpt.save(step), lambda: ckpt.confirm(step, tmp_path)):
            with pytest.raises(CheckpointError, match="step must be a whole number of finished steps, 0 or more, not"):
                call()
        ckpt.save(np.int64(7))
    assert [saved.step for saved in folder.saved_in(tmp_path / "d")] == [7]
    assert len(list((tmp_path / "d").glob("save-*"))) == 1


def test_the_folder_works_alone(tmp_path):
    """The library needs nothing of the package: a copy of its folder under another parent works."""
    (tmp_path / "slurmext").mkdir()
    (tmp_path / "slurmext" / "__init__.py").touch()
    (tmp_path / "slurmext" / "checkpoint").symlink_to(ROOT / "slurmext" / "checkpoint")
    code = "from slurmext.checkpoint import Checkpointer; import sys; c=Checkpointer({'a': 1}, sys.argv[1]); c.save(1); assert 'numpy' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(tmp_path / "c")], env={"PYTHONPATH": str(tmp_path)}, check=False
    )
    assert done.returncode == 0


def train(folder: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(ROOT / "examples/train_numpy.py"), "--steps=60", f"--dir={folder}", *options],
                            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip


def test_an_interrupted_training_run_ends_the_same(tmp_path):
    """The example, signalled and killed twice, ends with the same loss, to the last bit, as one left alone."""
    wanted = train(tmp_path / "a").communicate(timeout=60)[0].splitlines()[-1]
    assert (
        wanted.startswith("final loss 0.") or wanted.startswith("final loss 1.") or wanted.startswith("final loss 2.")
    )
    resumed = 0
    for _ in range(2):
        program = train(tmp_path / "b", "--step-time=0.1")
        first = program.stdout.readline()
        time.sleep(0.4)
        program.send_signal(signal.SIGUSR1)
        saved = program.stdout.readline().split()
        program.kill()
        program.wait()
        assert first == (f"resumed at step {resumed}\n" if resumed else "started\n")
        assert saved[:2] == ["saved", "step"]
        resumed = int(saved[2])
    out = train(tmp_path / "b").communicate(timeout=60)[0].splitlines()
    assert out == [f"resumed at step {resumed}", wanted]
