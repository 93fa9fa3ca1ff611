"""`attach`: a training in PyTorch goes on with other numbers of ranks, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections import Counter

import pytest

from slurmext.checkpoint import attach

from .programs import ROOT

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from slurmext.checkpoint.frameworks.torch_loader import Position  # noqa: E402
from slurmext.checkpoint.frameworks.torch_random import get_random, set_random  # noqa: E402

from .torch_programs import Numbers  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("path", [(4, 2, 3), (2, 4), (3, 1, 2)])
def test_data_are_dealt_to_other_numbers_of_ranks(path):
    """Whatever the numbers of ranks, each sample of an epoch is used once, in the order of the sampler."""
    saved, used = None, []
    for at, world in enumerate(path, 1):
        places, loaders = [], []
        for rank in range(world):
            data = Numbers(72)
            sampler = torch.utils.data.DistributedSampler(data, world, rank, seed=3)
            loader = torch.utils.data.DataLoader(data, 2, sampler=sampler)
            place = Position(get_random, set_random)
            place.track(loader)
            place.choose(1)
            if saved is not None:
                place.restore(saved, get_random())
            places.append(place)
            loaders.append(iter(loader))
        for _ in range(3 if at < len(path) else 1000):
            batches = [next(each, None) for each in loaders]
            if batches[0] is None:
                break
            used += [number for batch in batches for number in batch[0].tolist()]
        saved = places[0].state()
    assert Counter(used) == Counter(range(72)) and len(used) == 72


SHARDED = """
    import os, sys, traceback
    import torch, torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    import slurmext.checkpoint
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True, write_through=False)  # ranks share it: whole lines

    def train(rank, world, folder, seed, steps, group):
        dist.init_process_group("gloo", rank=rank, world_size=world, init_method=f"file://{group}")
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 6))
        for part in model[0], model[2]:
            fully_shard(part)
        fully_shard(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        ckpt = slurmext.checkpoint.attach(model, optimizer, dir=folder, every_s=None)
        for step in ckpt.steps(steps):
            inputs = torch.full((4, 6), float(step))
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
        ckpt.save()
        tensors = [p.full_tensor() for p in model.parameters()]
        tensors += [optimizer.state[p]["exp_avg_sq"].full_tensor() for p in model.parameters()]
        print(world, ckpt.resumed, ckpt.step, [round(float(t.double().sum()), 5) for t in tensors], flush=True)
        ckpt.close()
        dist.destroy_process_group()

    # Importing takes longer than all the rest: once for all runs and ranks.
    for number, run in enumerate(sys.argv[1:]):
        folder, world, seed, steps = run.split(",")
        for rank in range(int(world)):
            if os.fork() == 0:
                try:
                    train(rank, int(world), folder, int(seed), int(steps), f"{folder}-group-{number}")
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
        if any([os.wait()[1] for _ in range(int(world))]):
            sys.exit(f"run {number} failed")
"""


def test_sharded_models_on_other_numbers_of_ranks(tmp_path):
    """FSDP2: what two ranks saved goes on in three and in one, weights and optimizer."""
    runs = [("a", 1, 1, 9), ("b", 2, 1, 3), ("b", 3, 2, 6), ("b", 1, 3, 9)]  # folder, ranks, seed, steps
    words = [f"{tmp_path / folder},{world},{seed},{steps}" for folder, world, seed, steps in runs]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SHARDED), *words], env=environment, capture_output=True,
                          text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    alone, two, three, last = said[0], said[1:3], said[3:6], said[6]
    assert two == [two[0]] * 2 and two[0].startswith("2 None 3 ")
    assert three == [three[0]] * 3 and three[0].startswith("3 3 6 ")
    assert last.removeprefix("1 6") == alone.removeprefix("1 None")


def test_boundaries_cost_little(tmp_path):
    """What a step of a small model pays for being attached."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, dir=tmp_path, every_s=None, signals=False) as ckpt:
        took, began = [], time.perf_counter()
        for step in ckpt.steps(2000):
            ckpt._enter()
            if step % 200 == 0:
                took.append(time.perf_counter() - began)
                began = time.perf_counter()
        assert min(took) / 200 < 200e-6, took


def test_the_interval_rests_on_what_a_checkpoint_cost(tmp_path):
    """After the first one there is a measured cost, and it is no more than what the loop was held up."""
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, dir=tmp_path, signals=False) as ckpt:
        assert ckpt.interval.reasons()["costs_measured"] == 0
        began = time.monotonic()
        for step in ckpt.steps(30):
            model(torch.ones(2, 64)).sum().backward()
            optimizer.step()
            time.sleep(0.01)
            if step == 10:
                ckpt.ask()
        assert ckpt.interval.reasons()["costs_measured"] == 1
        assert 0 < ckpt.interval.cost_s < time.monotonic() - began
