"""What a training job relies on: exact restores, and no fault at any point that costs more than one interval."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurmext
from slurmext.checkpoint import Checkpointer, CheckpointError
from slurmext.checkpoint.checkpointer import default_directory
from slurmext.checkpoint.engine import folder, tree

ROOT = Path(slurmext.__file__).parent.parent
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "WORLD_SIZE", "RANK"))]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


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


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


def spoil(saved: Path) -> None:
    """A bit of the largest file is flipped."""
    flip(max(saved.iterdir(), key=lambda path: path.stat().st_size), 3000)


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys):
    """Restore takes the one before, says which is bad, and the run can go on saving."""
    save_steps(tmp_path, 10, 20)
    bad = next(tmp_path.glob("save-*-step-20"))
    spoil(bad)
    assert restored(tmp_path) == (10, 10.0)
    assert str(bad) in capsys.readouterr().err
    save_steps(tmp_path, 20)
    assert restored(tmp_path) == (20, 20.0)


WRITER = """
    import sys, numpy as np
    from slurmext.checkpoint import Checkpointer
    state = {"w": np.zeros(200_000), "n": 0}
    ckpt = Checkpointer(state, sys.argv[1])
    n = ckpt.restore() or 0
    assert (state["w"] == n).all() and state["n"] == n
    print("ready", n, flush=True)
    while True:
        n += 1
        state["w"] += 1
        state["n"] = n
        ckpt.save(n)
        print("saved", n, flush=True)
"""


def run(code: str, *arguments: object, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)  # fmt: skip


def test_kill_9_at_any_point(tmp_path):
    """A process killed again and again while it saves always resumes from its last finished save, or a later one."""
    chance, last = random.Random(2), 0
    for _ in range(12):
        program = run(WRITER, tmp_path)
        ready = program.stdout.readline().split()
        assert ready and int(ready[1]) >= last, program.stderr.read()
        time.sleep(0.01 + chance.random() * 0.05)
        program.kill()
        lines = [line.split() for line in program.communicate(timeout=30)[0].splitlines()]
        last = int(lines[-1][1]) if lines else int(ready[1])
    assert last > 3
    step, value = restored_plain(tmp_path)
    assert step >= last and value == step


def restored_plain(folder: Path) -> tuple[int, float]:
    state = {"w": np.zeros(200_000), "n": 0}
    with Checkpointer(state, folder) as ckpt:
        step = ckpt.restore() or 0
    assert (state["w"] == state["w"][0]).all()
    return step, float(state["w"][0])


@needs_root
def test_disk_full(tmp_path):
    """No space left: the error names directory and remedy, nothing half-written stays, the older checkpoint is good."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(place)], check=True)
    try:
        save_steps(place, 10)
        big = {"w": np.zeros(100_000)}
        with (
            Checkpointer(big, place, signals=False) as ckpt,
            pytest.raises(CheckpointError, match=r"small: no space left.*--ckpt-dir"),
        ):
            ckpt.save(20)
        assert sorted(os.listdir(place)) == [".lock", "save-00000001-step-10"]
        assert restored(place) == (10, 10.0)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@needs_root
def test_read_only_file_system(tmp_path):
    """A read-only directory is said to be so when the job starts, not after hours of training."""
    place = tmp_path / "ro"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)], check=True)
    try:
        with pytest.raises(CheckpointError, match="read-only"):
            Checkpointer(new_state(), place).restore()
        with pytest.raises(CheckpointError, match="read-only"):
            Checkpointer(new_state(), place / "deeper").restore()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_two_jobs_cannot_share_a_directory(tmp_path):
    """The second job waits for the first, which may be on its way out."""
    program = run("""
        import sys, time
        from slurmext.checkpoint import Checkpointer
        Checkpointer({}, sys.argv[1]).restore(); print("held", flush=True); time.sleep(60)
    """, tmp_path, SLURM_JOB_ID="41")  # fmt: skip
    assert program.stdout.readline() == "held\n"
    threading.Timer(0.5, program.kill).start()
    save_steps(tmp_path, 1)  # waits for the holder to end
    program.communicate()


def test_two_checkpointers_in_one_process(tmp_path):
    """Two for one directory would lose each other's work as two jobs would."""
    with Checkpointer({}, tmp_path) as first:
        first.save(1)
        with pytest.raises(CheckpointError, match="already has a Checkpointer"):
            Checkpointer({}, tmp_path).restore()
    save_steps(tmp_path, 2)


def test_a_forked_helper_does_not_hold_the_directory(tmp_path):
    """A data loader that outlives a killed training process does not keep the next run out."""
    program = run("""
        import os, sys, time
        from slurmext.checkpoint import Checkpointer
        Checkpointer({}, sys.argv[1]).restore()
        if os.fork() == 0:
            os.close(1); os.close(2); time.sleep(20); os._exit(0)
        print("held", flush=True)
        os.kill(os.getpid(), 9)
    """, tmp_path)  # fmt: skip
    program.communicate(timeout=10)
    started = time.monotonic()
    save_steps(tmp_path, 1)
    assert time.monotonic() - started < 5


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


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), {(1, 2): 3}, lambda: 1])
def test_what_cannot_be_saved_is_named(tmp_path, value):
    """A value without an exact form is refused with its name, and nothing is written."""
    with (
        Checkpointer({"a": [1, {"b": value}]}, tmp_path) as ckpt,
        pytest.raises(CheckpointError, match=r"state\['a'\]\[1\]\['b'\]"),
    ):
        ckpt.save(1)
    assert os.listdir(tmp_path) == [".lock"]


def soon(condition) -> bool:
    """The checkpoint thread has heard of it."""
    deadline = time.monotonic() + 10
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


def test_due_on_the_signal_until_saved(tmp_path, monkeypatch):
    """The signal makes a save due once; `SLURMEXT_CKPT` names which; a handler of the program's own still runs."""
    monkeypatch.setenv("SLURMEXT_CKPT", "SIGURG@30")
    seen = []
    former = signal.signal(signal.SIGURG, lambda *_: seen.append(1))
    with Checkpointer({}, tmp_path) as ckpt:
        assert not ckpt.due(1)
        os.kill(os.getpid(), signal.SIGURG)
        assert soon(lambda: ckpt.due(2)) and seen == [1]
        ckpt.save(2)
        assert not ckpt.due(3)
    signal.signal(signal.SIGURG, former)


def test_due_after_a_while(tmp_path):
    """Without a signal a save is due after `every_s`; None leaves it to signals."""
    with (
        Checkpointer({}, tmp_path / "a", every_s=0.2, signals=False) as ckpt,
        Checkpointer({}, tmp_path / "b", every_s=None, signals=False) as never,
    ):
        assert not ckpt.due(1)
        assert soon(lambda: ckpt.due(2)) and not never.due(2)
        ckpt.save(2)
        assert not ckpt.due(3)


def test_where_checkpoints_go(monkeypatch):
    """--ckpt-dir, else a folder of the job's id where it was submitted: the same one after a requeue."""
    monkeypatch.setenv("SLURM_SUBMIT_DIR", "/home/alice")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert default_directory() == Path("/home/alice/slurmext-ckpt/12")
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", "/scratch/x")
    assert default_directory() == Path("/scratch/x")


def test_tasks_of_an_array_have_a_directory_each(monkeypatch):
    """One --ckpt-dir for all tasks of an array is divided among them; the default has the task's own job id."""
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", "/scratch/x")
    assert default_directory() == Path("/scratch/x/task-7")
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", "/home/alice/slurmext-ckpt/13")
    assert default_directory() == Path("/home/alice/slurmext-ckpt/13")


def serve(path: Path, reply: bytes | None, requests: list[dict]) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            requests.append(json.loads(connection.recv(65536)))
            if reply is None:
                time.sleep(5)
            with contextlib.suppress(OSError):
                connection.sendall(reply or b"")
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    return listener


@pytest.mark.parametrize(
    "reply", [b'{"ok": true}\n', b'{"ok": false, "error": "not yours"}\n', b"\xff\n", b"[]\n", b"", None]
)
def test_a_save_is_confirmed_and_never_fails_for_it(tmp_path, monkeypatch, capsys, reply):
    """After a save on the signal the agent is told; one that refuses, dies or hangs costs one line and two seconds."""
    requests: list[dict] = []
    with serve(tmp_path / "s", reply, requests):
        monkeypatch.setenv("SLURMEXT_AGENT_SOCKET", str(tmp_path / "s"))
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        with Checkpointer({"a": 1}, tmp_path / "c") as ckpt:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert soon(lambda: ckpt.due(300))
            started = time.monotonic()
            path = ckpt.save(300)
            assert time.monotonic() - started < 3
    (request,) = [asked for asked in requests if asked["op"] == "ckpt_confirm"]
    assert (request["op"], request["job_id"], request["step"], request["path"], request["on_signal"]) == (
        "ckpt_confirm", 12, 300, str(path), True)  # fmt: skip
    assert request["size_bytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert abs(request["saved_at_s"] - time.time()) < 10
    assert ("did not take note" in capsys.readouterr().err) is (reply != b'{"ok": true}\n')


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
        program = train(tmp_path / "b", "--step-time=0.05")
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
