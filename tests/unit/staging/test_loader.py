"""What a job gets: tensors mapped from the staged files, or read from disk, the same either way."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from slurmext.staging.errors import BadModel, NotStaged
from slurmext.staging.loader import load
from slurmext.staging.readers import BLOCK_BYTES, Reading

from .conftest import noise, safetensors, stage, write_model

numpy = pytest.importorskip("numpy")


def mixed(directory: Path) -> Path:
    """Two files with tensors of several types, an empty one and a scalar."""
    directory.mkdir()
    first = {"a": ("F32", [2, 3], numpy.arange(6, dtype="<f4").tobytes()), "none": ("U8", [0, 3], b"")}
    second = {"b": ("I64", [], (7).to_bytes(8, "little")), "h": ("F16", [4], numpy.ones(4, "<f2").tobytes())}
    (directory / "model-1.safetensors").write_bytes(safetensors(first))
    (directory / "model-2.safetensors").write_bytes(safetensors(second))
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_staged_and_unstaged_models_are_the_same(memory, tmp_path):
    """Names, types, shapes, values; and the other files are where `directory` says."""
    files = mixed(tmp_path / "m")
    stage(memory / "t", files, "org/m")
    staged = load("org/m", framework="numpy", roots=f"/nowhere:{memory / 't'}")
    direct = load(files, framework="numpy")
    assert sorted(staged) == sorted(direct) == ["a", "b", "h", "none"]
    for name in direct:
        assert staged[name].dtype == direct[name].dtype
        assert numpy.array_equal(staged[name], direct[name])
    assert staged["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert staged["b"].shape == () and int(staged["b"]) == 7
    assert staged["none"].shape == (0, 3)
    assert (staged.directory / "tokenizer.json").read_text() == "{}"
    assert load("org/m@v1", framework="numpy", roots=str(memory / "t")).directory == staged.directory


def test_nothing_is_copied_and_nothing_staged_is_changed(memory, tmp_path):
    """Two arrays of one name share memory; what a job writes stays in the job."""
    directory = stage(memory / "t", mixed(tmp_path / "m"), "org/m")
    weights = load("org/m", framework="numpy", roots=str(memory / "t"))
    assert numpy.shares_memory(weights["a"], weights["a"])
    before = (directory / "model-1.safetensors").read_bytes()
    weights["a"][:] = 9
    assert (directory / "model-1.safetensors").read_bytes() == before
    assert load("org/m", framework="numpy", roots=str(memory / "t"))["a"][0, 1] == 1


def test_torch_has_the_types_numpy_lacks(memory, tmp_path):
    """bfloat16 as torch's own, in NumPy as ml_dtypes' where that is; a type that neither has is said."""
    torch = pytest.importorskip("torch")
    (tmp_path / "m").mkdir()
    content = torch.arange(8, dtype=torch.bfloat16)
    raw = content.view(torch.uint8).numpy().tobytes()
    (tmp_path / "m" / "w.safetensors").write_bytes(safetensors({"w": ("BF16", [2, 4], raw)}))
    stage(memory / "t", tmp_path / "m", "org/m")
    weights = load("org/m", framework="torch", roots=str(memory / "t"))
    assert torch.equal(weights["w"], content.reshape(2, 4))
    if importlib.util.find_spec("ml_dtypes"):
        array = load("org/m", framework="numpy", roots=str(memory / "t"))["w"]
        assert array.astype("f4").tolist() == content.float().reshape(2, 4).tolist()
    else:
        with pytest.raises(BadModel, match="framework='torch'"):
            load("org/m", framework="numpy", roots=str(memory / "t"))["w"]
    (tmp_path / "f6").mkdir()
    (tmp_path / "f6" / "w.safetensors").write_bytes(safetensors({"w": ("F6_E2M3", [4], b"abc")}))
    for framework in ("numpy", "torch"):
        with pytest.raises(BadModel, match="F6_E2M3"):
            load(tmp_path / "f6", framework=framework)["w"]


def test_what_is_not_complete_is_not_loaded(memory, tmp_path):
    """Said apart from what is not there at all."""
    stage(memory / "t", write_model(tmp_path / "m"), "org/m", complete=False)
    with pytest.raises(NotStaged, match="not complete"):
        load("org/m", roots=str(memory / "t"))
    with pytest.raises(NotStaged, match="--preload=org/other"):
        load("org/other", roots=str(memory / "t"))
    with pytest.raises(NotStaged, match="no directory"):
        load(tmp_path / "absent")


def test_reading_from_disk_reads_every_byte(tmp_path):
    """Several files at once, sizes that are no multiple of anything."""
    paths = []
    for at, size in enumerate((0, 1, 4095, 4096, (8 << 20) + 17, (16 << 20))):
        paths.append(tmp_path / f"{at}")
        paths[-1].write_bytes(noise(size, at))
    reading = Reading(paths)
    reading.finish()
    for at, path in enumerate(paths):
        assert bytes(reading.buffer.file(at, reading.sizes[at])) == path.read_bytes()


def test_only_what_is_wanted_is_read(tmp_path):
    """A part of a file costs its blocks; the parts come in the order asked for."""
    content = noise(3 * BLOCK_BYTES)
    (tmp_path / "f").write_bytes(content)
    parts = [(0, 2 * BLOCK_BYTES + 5000, 2 * BLOCK_BYTES + 6000), (0, 100, 200)]
    reading = Reading([tmp_path / "f"], parts, threads=1)
    for file, begin, end in parts:
        reading.wait(file, begin, end)
        assert bytes(reading.buffer.file(0, len(content))[begin:end]) == content[begin:end]
    reading.finish()
    assert reading.read_bytes <= 3 * 4096


def test_a_file_that_becomes_shorter_is_an_error_not_a_hang(tmp_path):
    """Whoever waits for it is told, and whoever waits for all."""
    (tmp_path / "f").write_bytes(noise(1 << 20))
    beyond = (0, BLOCK_BYTES, BLOCK_BYTES + 4096)
    reading = Reading([tmp_path / "f"], [(0, 0, 4096), beyond], threads=2)
    with pytest.raises(OSError, match="shorter"):
        reading.wait(*beyond)
    with pytest.raises(OSError, match="shorter"):
        reading.finish()


def test_a_job_needs_nothing_else_of_slurmext(tmp_path):
    """Loading imports neither xxhash nor the agent's modules."""
    files = mixed(tmp_path / "m")
    code = (
        "import sys, slurmext.staging as s; s.load(sys.argv[1], framework='numpy')['a'];"
        "bad = [m for m in sys.modules if m == 'xxhash' or m.startswith(('slurmext.agent', 'slurmext.adapters', 'pydantic'))];"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(files)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
