"""Onto a GPU: pieces through two pinned buffers in turns; said when there is none."""

from __future__ import annotations

import contextlib

import pytest

from slurmext.staging import Shard, load, stream
from slurmext.staging.device import NoDevice, Pinned, device_of
from slurmext.staging.errors import StagingError

from .conftest import noise, safetensors, write_model

torch = pytest.importorskip("torch")


class Streams:
    """Stands in for torch.cuda on the CPU; notes what is waited for."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def Stream(self, _device: object) -> Streams:  # noqa: N802 - torch's name
        return self

    def current_stream(self, _device: object) -> Streams:
        return self

    def stream(self, _side: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wait_stream(self, _other: object) -> None:
        self.seen.append("wait")

    def record_event(self) -> Streams:
        self.seen.append("copied")
        return self

    def synchronize(self) -> None:
        self.seen.append("reuse")


def test_pieces_go_through_two_buffers_by_turns(monkeypatch):
    """A buffer is not filled again before it was copied; the caller's stream waits for the last piece."""
    streams = Streams()
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    device = Pinned(torch, "cpu", streams, piece_bytes=1000)
    tensor = torch.arange(1000, dtype=torch.int32).reshape(10, 100)
    there = device.put(tensor)
    assert torch.equal(there, tensor)
    assert there.data_ptr() != tensor.data_ptr()
    assert streams.seen == ["wait", "copied", "copied", "reuse", "copied", "reuse", "copied", "wait"]
    assert torch.equal(device.put(tensor[:, 20:60]), tensor[:, 20:60])
    assert torch.equal(device.put(torch.tensor(7)), torch.tensor(7))
    assert device.put(torch.empty(0, 3)).shape == (0, 3)
    half = torch.randn(7, 5).to(torch.bfloat16)
    assert torch.equal(device.put(half), half)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    """Before anything is read."""
    with pytest.raises(NoDevice, match="sees no GPU here"):
        load(tmp_path / "absent", to="cuda")
    with pytest.raises(NoDevice, match="nonsense"):
        stream(tmp_path / "absent", to="nonsense")
    with pytest.raises(StagingError, match="framework='torch'"):
        load(tmp_path / "absent", framework="numpy", to="cuda")
    assert device_of("cpu") is None


def test_tensors_on_another_device_are_kept(tmp_path):
    """Moved once, not at each access (`meta` is the one other device that is everywhere)."""
    weights = load(write_model(tmp_path / "m"), to="meta")
    assert weights["layer.0"].device.type == "meta"
    assert weights["layer.0"] is weights["layer.0"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_has_the_same_bytes(tmp_path):
    """All of a model, several pieces each, and a rank's part of it."""
    (tmp_path / "m").mkdir()
    content = {f"l.{at}.o_proj.weight": ("U8", [2048, 40_000], noise(2048 * 40_000, at)) for at in range(2)}
    (tmp_path / "m" / "model.safetensors").write_bytes(safetensors(content))
    here, there = load(tmp_path / "m", framework="torch"), load(tmp_path / "m", to="cuda")
    shard = Shard(rank=1, world=2)
    for name, part in stream(tmp_path / "m", to="cuda", shard=shard):
        assert there[name].is_cuda
        assert torch.equal(there[name].cpu(), here[name])
        assert torch.equal(part.cpu(), here[name][:, 20_000:])
