"""The examples of each framework: interrupted, they go on and end as they would have."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import slurmext

ROOT = Path(slurmext.__file__).parent.parent


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def start(name: str, folder: Path, *options: str) -> subprocess.Popen:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    env = (
        clean
        | threads
        | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    )
    argv = [sys.executable, str(ROOT / "examples" / name), f"--dir={folder}", *options]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)


def last_line(process: subprocess.Popen) -> str:
    return process.communicate(timeout=120)[0].splitlines()[-1]


CASES = [
    pytest.param("train_jax.py", ["--steps=150"], ["--step-time=0.1"], "final", marks=needs("jax")),
    pytest.param(
        "train_torch.py", ["--epochs=2", "--sentences=128"], ["--step-time=0.4"], "rank 0", marks=needs("torch")
    ),
    pytest.param("train_transformers.py", ["--steps=60"], ["--load-time=0.05"], "final", marks=needs("transformers")),
    pytest.param("train_lightning.py", ["--epochs=4"], ["--step-time=0.15"], "final step 64", marks=needs("lightning")),
]


@pytest.mark.parametrize(
    ("name", "options", "slowly", "last"), CASES, ids=lambda value: str(value).removesuffix(".py")[:18]
)
def test_an_example_goes_on(tmp_path, name, options, slowly, last):
    """Told to save by TERM in the midst of training, the next run starts there and ends alike."""
    program = start(name, tmp_path / "b", *options, *slowly)
    assert program.stdout.readline() == "started\n"
    time.sleep(1.2)
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=60)
    assert program.returncode == -signal.SIGTERM
    again = start(name, tmp_path / "b", *options)
    assert again.stdout.readline().startswith("resumed ")
    ended = last_line(again)
    assert ended.startswith(last)
    if name != "train_lightning.py":  # Lightning reads an epoch's data from the start again
        assert ended == last_line(start(name, tmp_path / "a", *options))


@pytest.mark.parametrize(
    "name",
    [
        "train_numpy.py",
        pytest.param("train_transformers.py", marks=needs("transformers")),
        pytest.param("train_lightning.py", marks=needs("lightning")),
    ],
)
def test_an_example_that_cannot_save_at_all_says_so_in_one_line(tmp_path, name):
    """At its start, with the cause and the remedy and nothing of the library's insides."""
    home = tmp_path / "home"
    home.mkdir(mode=0)
    ordinary = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*ordinary, sys.executable, str(ROOT / "examples" / name), f"--dir={home / 'checkpoints'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{name.removesuffix('.py')}: cannot write a checkpoint to {home / 'checkpoints'}: no perm")
    assert last.endswith("choose a directory of your own with --ckpt-dir")
    assert "Traceback" not in done.stderr


@needs("submitit")
def test_submitit_saves_in_one_step(tmp_path):
    """A stale draft does not block a save, and the file is there at every moment of one."""
    from submitit.core import utils

    from slurmext.checkpoint.frameworks import submitit

    submitit.mend()
    final = tmp_path / "1_submitted.pkl"
    final.write_text("old")
    (tmp_path / "1_submitted.pkl.save_tmp").write_text("half")
    with utils.temporary_save_path(final) as draft:
        draft.write_text("new")
        assert final.read_text() == "old"
    assert final.read_text() == "new"
    with pytest.raises(FileNotFoundError), utils.temporary_save_path(final):
        pass
    assert final.read_text() == "new" and not list(tmp_path.glob(f"*.{os.getpid()}.*"))


@needs("submitit")
def test_submitit_runs_the_callable(tmp_path):
    """The example counts to the end in a job of submitit's own."""
    argv = [
        sys.executable,
        str(ROOT / "examples/submit_checkpointable.py"),
        "--local",
        "--steps=3",
        f"--folder={tmp_path}",
    ]
    done = subprocess.run(
        argv, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "counted to 3\n", done.stderr
