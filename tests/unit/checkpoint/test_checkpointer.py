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
from slurmext.checkpoint import Checkpointer, CheckpointError, digest, directory, lock, tree

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


def save_steps(folder: Path, *steps: int, keep: int = 2) -> None:
    state = new_state()
    with Checkpointer(state, folder, keep=keep) as ckpt:
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
    assert [saved.step for saved in directory.saved_in(tmp_path)] == [30, 20]
    flip(next(tmp_path.glob("save-*-step-30")) / "rank-00000.bin", 100)
    save_steps(tmp_path, 40)
    assert [saved.step for saved in directory.saved_in(tmp_path)] == [40, 20]


def test_the_newest_save_wins_not_the_highest_step(tmp_path):
    """A run that started over writes lower steps; those are the newest."""
    save_steps(tmp_path, 100, 200, 30)
    assert restored(tmp_path) == (30, 30.0)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


def corrupt(saved: Path, how: str) -> None:
    data, manifest = saved / "rank-00000.bin", saved / "manifest.json"
    content = manifest.read_bytes()
    match how:
        case "bit flip in data":
            flip(data, 3000)
        case "bit flip in padding":
            flip(data, data.stat().st_size - 1)
        case "truncated data":
            os.truncate(data, 100)
        case "longer data":
            data.write_bytes(data.read_bytes() + b"x")
        case "empty data":
            data.write_bytes(b"")
        case "data gone":
            data.unlink()
        case "bit flip in manifest":
            flip(manifest, len(content) // 2)
        case "bit flip in manifest head":
            flip(manifest, 2)
        case "truncated manifest":
            manifest.write_bytes(content[:-20])
        case "empty manifest":
            manifest.write_bytes(b"")
        case "manifest gone":
            manifest.unlink()
        case "manifest a directory":
            manifest.unlink()
            manifest.mkdir()
        case "manifest of zeros":
            manifest.write_bytes(b"\0" * len(content))
        case "manifest that means nothing":
            body = b'{"step": 20, "serial": 2, "files": [], "state": 5}'
            manifest.write_bytes(f"{directory.FORMAT} {digest.BEST} {digest.digest(body)}\n".encode() + body)
        case "manifest of another step":
            other = next(path for path in saved.parent.glob("save-*") if path != saved)
            manifest.write_bytes((other / "manifest.json").read_bytes())
        case "data a pipe":
            data.unlink()
            os.mkfifo(data)


DAMAGE = ["bit flip in data", "bit flip in padding", "truncated data", "longer data", "empty data", "data gone", "bit flip in manifest",
          "bit flip in manifest head", "truncated manifest", "empty manifest", "manifest gone", "manifest a directory",
          "manifest of zeros", "manifest that means nothing", "manifest of another step", "data a pipe"]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys, how):
    """Restore takes the one before, says which file is bad, and the run can go on saving."""
    save_steps(tmp_path, 10, 20)
    bad = next(tmp_path.glob("save-*-step-20"))
    corrupt(bad, how)
    assert restored(tmp_path) == (10, 10.0)
    assert str(bad) in capsys.readouterr().err
    save_steps(tmp_path, 20)
    assert restored(tmp_path) == (20, 20.0)


def test_every_flipped_bit_is_noticed(tmp_path):
    """A bit flipped anywhere in a checkpoint: the one before is restored, never a wrong value."""
    save_steps(tmp_path, 10, 20)
    bad = next(tmp_path.glob("save-*-step-20"))
    chance = random.Random(1)
    for name in ("manifest.json", "rank-00000.bin"):
        whole = (bad / name).read_bytes()
        for _ in range(100):
            flip(bad / name, chance.randrange(len(whole)))
            assert restored(tmp_path) == (10, 10.0)
            (bad / name).write_bytes(whole)
    assert restored(tmp_path) == (20, 20.0)


def test_all_damaged(tmp_path, capsys):
    """With no good one left the run starts anew instead of crashing."""
    save_steps(tmp_path, 10, 20)
    for saved in tmp_path.glob("save-*"):
        flip(saved / "manifest.json", 90)
    assert restored(tmp_path) == (None, -1.0)
    assert capsys.readouterr().err.count("is damaged") == 2


def test_leftovers_and_strange_names(tmp_path):
    """What a killed process left is removed; names that are not ours are not touched and not read."""
    save_steps(tmp_path, 10)
    (tmp_path / ".new-00000002-99").mkdir()
    (tmp_path / ".new-00000002-99" / "rank-00000.bin").write_bytes(b"half")
    (tmp_path / "save-x-step-9").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "save-00000009-step-90").write_text("a file")
    assert restored(tmp_path) == (10, 10.0)
    assert sorted(os.listdir(tmp_path)) == [
        ".lock",
        "notes.txt",
        "save-00000001-step-10",
        "save-00000009-step-90",
        "save-x-step-9",
    ]


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
    assert last > 12
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
            pytest.raises(CheckpointError, match=r"small: no space left; .*--ckpt-dir"),
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


def test_two_jobs_cannot_share_a_directory(tmp_path, monkeypatch):
    """The second job is told who holds the directory and what to do; when the first is gone it may go on."""
    program = run("""
        import sys, time
        from slurmext.checkpoint import Checkpointer
        Checkpointer({}, sys.argv[1]).restore(); print("held", flush=True); time.sleep(60)
    """, tmp_path, SLURM_JOB_ID="41")  # fmt: skip
    assert program.stdout.readline() == "held\n"
    monkeypatch.setattr(lock, "WAIT_S", 0.2)
    with pytest.raises(CheckpointError, match=rf"job 41 \(pid {program.pid} on .*\) is using .*{tmp_path}.*--ckpt-dir"):
        lock.DirectoryLock(tmp_path, wait_s=0.2)
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


def test_due_on_the_signal_until_saved(tmp_path, monkeypatch):
    """The signal makes a save due once; `SLURMEXT_CKPT` names which; a handler of the program's own still runs."""
    monkeypatch.setenv("SLURMEXT_CKPT", "SIGUSR2@30")
    seen = []
    former = signal.signal(signal.SIGUSR2, lambda *_: seen.append(1))
    with Checkpointer({}, tmp_path) as ckpt:
        assert not ckpt.due(1)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert ckpt.due(2) and ckpt.due(2) and seen == [1]
        ckpt.save(2)
        assert not ckpt.due(3)
    signal.signal(signal.SIGUSR2, former)


def test_due_after_a_while(tmp_path):
    """Without a signal a save is due after `every_s`; None leaves it to signals."""
    with (
        Checkpointer({}, tmp_path / "a", every_s=0.05) as ckpt,
        Checkpointer({}, tmp_path / "b", every_s=None) as never,
    ):
        assert not ckpt.due(1)
        time.sleep(0.06)
        assert ckpt.due(2) and not never.due(2)
        ckpt.save(2)
        assert not ckpt.due(3)


@pytest.mark.parametrize(("environment", "writes"), [
    ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, True), ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, True),
    ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, False), ({"WORLD_SIZE": "2", "RANK": "1", "SLURM_PROCID": "0"}, False),
])  # fmt: skip
def test_tasks_that_hold_the_same_state(tmp_path, monkeypatch, environment, writes):
    """Of several tasks with one state the first saves and all restore; without saying so it is an error at the start."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if len(set(environment.values()) & {"2", "4"}):
        with pytest.raises(CheckpointError, match="replicated=True"):
            Checkpointer({}, tmp_path)
    with Checkpointer({}, tmp_path, every_s=0, replicated=True) as ckpt:
        assert ckpt.due(1) is writes
        assert (ckpt.save(1) is not None) is writes
        assert ckpt.restore() == (1 if writes else None)


def test_where_checkpoints_go(monkeypatch):
    """--ckpt-dir, else a folder of the job's id where it was submitted: the same one after a requeue."""
    monkeypatch.setenv("SLURM_SUBMIT_DIR", "/home/alice")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert Checkpointer({}).directory == Path("/home/alice/slurmext-ckpt/12")
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", "/scratch/x")
    assert Checkpointer({}).directory == Path("/scratch/x")


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
            started = time.monotonic()
            path = ckpt.save(300)
            assert time.monotonic() - started < 3
    (request,) = requests
    assert (request["op"], request["job_id"], request["step"], request["path"], request["on_signal"]) == (
        "ckpt_confirm", 12, 300, str(path), True)  # fmt: skip
    assert request["size_bytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert abs(request["saved_at_s"] - time.time()) < 10
    assert ("did not take note" in capsys.readouterr().err) is (reply != b'{"ok": true}\n')


def test_sha256_where_xxhash_is_missing(tmp_path, monkeypatch, capsys):
    """Without xxhash checkpoints have SHA-256; one with xxh3 sums cannot be checked there, which is said, not called damage."""
    save_steps(tmp_path / "x", 5)
    monkeypatch.setattr(digest, "xxhash", None)
    monkeypatch.setattr(directory, "BEST", "sha256")
    monkeypatch.setattr(directory, "hasher", lambda algorithm="sha256": digest.hasher(algorithm))
    monkeypatch.setattr(directory, "digest", lambda content, algorithm="sha256": digest.digest(content, algorithm))
    save_steps(tmp_path / "s", 6)
    assert b"sha256" in next((tmp_path / "s").glob("save-*/manifest.json")).read_bytes()[:40]
    assert restored(tmp_path / "s") == (6, 6.0)
    with pytest.raises(CheckpointError, match="pip install xxhash"):
        restored(tmp_path / "x")


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
