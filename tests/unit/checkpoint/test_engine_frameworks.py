"""The engine with PyTorch's tensors and JAX's arrays: the same bits in the program's own objects."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from slurmext.checkpoint.engine import CheckpointError, Engine, folder, tree

ROOT = Path(__file__).parents[3]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def trained(torch, seed: int):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    if seed == 1:
        model(torch.randn(8, 64)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_modules_and_optimizers_are_filled_in_place(tmp_path, torch):
    """Weights, moments that the fresh optimizer does not have yet, step counts and random numbers come back."""
    model, optimizer = trained(torch, 1)
    chance = torch.Generator().manual_seed(4)
    state = {
        "model": model,
        "optimizer": optimizer,
        "chance": chance,
        "rng": torch.get_rng_state(),
        "tied": model[0].weight,
    }
    with Engine(tmp_path) as engine:
        engine.save(3, state, wait=True)
    wanted = torch.randn(3, generator=chance)
    other, fresh = trained(torch, 2)
    again = {"model": other, "optimizer": fresh, "chance": torch.Generator(), "rng": None, "tied": other[0].weight}
    weights = other[0].weight
    with Engine(tmp_path) as engine:
        step, found = engine.restore(again)
        tree.put(again, found)
        size = sum(path.stat().st_size for path in folder.saved_in(tmp_path)[0].path.glob("*.bin"))
    assert step == 3 and other[0].weight is weights
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert str(optimizer.state_dict()) == str(fresh.state_dict())
    assert torch.equal(torch.randn(3, generator=again["chance"]), wanted) and torch.equal(again["rng"], state["rng"])
    assert size < 3.5 * 4 * (64 * 64 + 64 * 10) + 16384  # tied weights are there once


def test_tensors_of_every_kind(tmp_path, torch):
    """bfloat16 and float8, strided and empty, scalars and booleans."""
    tensors = {
        "bf": torch.randn(5, 3).to(torch.bfloat16), "f8": torch.randn(9).to(torch.float8_e4m3fn), "t": torch.randn(4, 6).t(),
        "cut": torch.arange(20).reshape(4, 5)[:, 1:3], "none": torch.zeros(0, 3), "one": torch.tensor(2.5), "b": torch.tensor([True, False]),
        "c": torch.randn(3, dtype=torch.complex64).conj(), "h": torch.randn(3).half(), "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }  # fmt: skip
    empty = {name: torch.zeros_like(value).resolve_conj() for name, value in tensors.items()}
    with Engine(tmp_path) as engine:
        engine.save(1, tensors, wait=True)
        engine.restore(empty)
        new = engine.restore()[1]
    for name, value in tensors.items():
        for back in (empty[name], new[name]):
            assert back.dtype == value.dtype and back.shape == value.shape
            assert torch.equal(
                back.view(torch.uint8) if name == "f8" else back, value.view(torch.uint8) if name == "f8" else value
            )
    assert empty["last"].is_contiguous(memory_format=torch.channels_last)


def test_a_tensor_s_checkpoint_in_numpy(tmp_path, torch):
    """What PyTorch saved a program without it restores, and the other way round."""
    with Engine(tmp_path) as engine:
        engine.save(1, {"w": torch.arange(6.0).reshape(2, 3)}, wait=True)
        target = np.zeros((2, 3), np.float32)
        engine.restore({"w": target})
        engine.save(2, {"w": target * 2}, wait=True)
        back = torch.zeros(2, 3)
        engine.restore({"w": back})
    assert (target == np.arange(6).reshape(2, 3)).all() and torch.equal(back, torch.arange(6.0).reshape(2, 3) * 2)


@pytest.mark.parametrize(("make", "words"), [
    (lambda torch: torch.zeros(3, device="meta"), "meta"), (lambda torch: torch.eye(3).to_sparse(), "sparse_coo"),
    (lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized"),
])  # fmt: skip
def test_tensors_that_cannot_be_saved(tmp_path, torch, make, words):
    """They are named before anything is written."""
    with Engine(tmp_path) as engine, pytest.raises(CheckpointError, match=rf"state\['x'\] is a {words} tensor"):
        engine.save(1, {"x": make(torch)})


SHARDS = """
    import os, sys, torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from slurmext.checkpoint.engine import Engine
    folder = sys.argv[1]
    # Importing takes longer than all the rest: once for all ranks.
    rank = next((rank for rank in (1, 2, 3) if os.fork() == 0), 0)
    dist.init_process_group("gloo", rank=rank, world_size=4, init_method=f"file://{folder}-group")
    flat, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    layouts = [(flat, [Shard(0)]), (square, [Replicate(), Shard(0)]), (square, [Shard(1), Replicate()]), (flat, [Shard(1)])]
    whole = torch.arange(7 * 5, dtype=torch.float32).reshape(7, 5)
    for step, (mesh, how) in enumerate(layouts):
        with Engine(folder, rank=rank, world=4, patience_s=60) as engine:
            state = {"w": distribute_tensor(torch.zeros(7, 5) if step else whole, mesh, how)}
            assert not step or engine.restore(state)[0] == step - 1
            assert torch.equal(state["w"].full_tensor(), whole)
            print(step, engine.save(step, state, wait=True).nbytes, flush=True)
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(rank == 0 and any([os.wait()[1] for _ in range(3)]))
"""


def test_distributed_tensors_in_any_layout(tmp_path, torch):
    """DTensor as FSDP2, HSDP and tensor parallelism make it: cut by rows, 2 x 2 with replicas, by columns; replicas are saved once."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDS), str(tmp_path / "d")], capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saved = [line.split() for line in done.stdout.splitlines()]
    writers = [sum(told[0] == str(step) and told[1] != "0" for told in saved) for step in range(4)]
    assert len(saved) == 16 and writers == [4, 2, 2, 3]  # five columns make three parts


def test_jax_arrays(tmp_path):
    """They cannot be filled in place: new ones come back on the device of the old."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    state = {
        "w": jax.numpy.arange(6.0).reshape(2, 3),
        "bf": jax.numpy.ones(4, jax.numpy.bfloat16),
        "key": jax.random.key_data(jax.random.key(3)),
    }
    with Engine(tmp_path) as engine:
        engine.save(1, state, wait=True)
        _, found = engine.restore({name: jax.numpy.zeros_like(value) for name, value in state.items()})
        plain = engine.restore()[1]
    for name, value in state.items():
        assert isinstance(found[name], jax.Array) and found[name].dtype == value.dtype and (found[name] == value).all()
        assert (np.asarray(plain[name]) == np.asarray(value)).all()
