"""`attach`: a training loop in PyTorch goes on to the last bit, its data in the right order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from slurmext.checkpoint import CheckpointError, attach

from .programs import ROOT
from .torch_programs import Numbers, torch

pytestmark = pytest.mark.usefixtures("one_thread")


class Run:
    """A training program: `until` (epoch, batch) it is killed at, None for none."""

    def __init__(self, folder, *, workers=0, until=None, seed=0, by_epoch=False, leave_early=False):
        torch.manual_seed(seed)
        random.seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2 if by_epoch else 5, gamma=0.7)
        loader = torch.utils.data.DataLoader(
            Numbers(), 4, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        self.seen = []
        with attach(model, optimizer, scheduler, loader, dir=folder, every_s=None, signals=False) as ckpt:
            self.resumed = ckpt.resumed
            for epoch in ckpt.epochs(3):
                for numbers, items in loader:
                    self.seen.append((epoch, numbers.tolist()))
                    optimizer.zero_grad()
                    model(items).square().mean().backward()
                    optimizer.step()
                    if not by_epoch:
                        scheduler.step()
                    if (epoch, ckpt.step + 1) == until:
                        ckpt.save()
                        return
                    if leave_early and ckpt.batch == 8:
                        break
                if by_epoch:
                    scheduler.step()
                model.eval()
                with torch.no_grad():
                    model(torch.zeros(2, 4))
                model.train()
            self.weights = [value.clone() for value in model.state_dict().values()]
            self.rate = optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    "options",
    [{}, {"workers": 2}, {"by_epoch": True}, pytest.param({"leave_early": True}, marks=pytest.mark.slow)],
    ids=str,
)
def test_three_runs_are_as_one(tmp_path, options):
    """Interrupted twice, in the first and in the second epoch after which data were read: all is as undisturbed."""
    whole = Run(tmp_path / "a", **options)
    per_epoch = 8 if options.get("leave_early") else 12
    first = Run(tmp_path / "b", until=(0, 5), **options)
    second = Run(tmp_path / "b", until=(1, per_epoch + 3), seed=8, **options)
    third = Run(tmp_path / "b", seed=9, **options)
    assert (first.resumed, second.resumed, third.resumed) == (None, 5, per_epoch + 3)
    assert first.seen + second.seen + third.seen == whole.seen
    assert third.rate == whole.rate
    assert all(map(torch.equal, third.weights, whole.weights))


def test_at_the_end_of_an_epoch(tmp_path):
    """Saved after an epoch's last batch: what the program does between epochs is done again, no batch is."""
    whole = Run(tmp_path / "a", by_epoch=True)
    first = Run(tmp_path / "b", by_epoch=True, until=(0, 12))
    second = Run(tmp_path / "b", by_epoch=True, seed=4)
    assert first.seen + second.seen == whole.seen
    assert second.rate == whole.rate and all(map(torch.equal, second.weights, whole.weights))


def test_saved_again_before_anything_is_done(tmp_path):
    """A run that is interrupted before its first step leaves what it found."""
    whole = Run(tmp_path / "a")
    first = Run(tmp_path / "b", until=(0, 5))
    for seed in (5, 6):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, gamma=0.7)
        loader = torch.utils.data.DataLoader(Numbers(), 4, shuffle=True)
        with attach(model, optimizer, scheduler, loader, dir=tmp_path / "b", every_s=None, signals=False) as ckpt:
            if seed == 6:
                next(iter(loader))
            ckpt.save()
    last = Run(tmp_path / "b", seed=9)
    assert first.seen + last.seen == whole.seen
    assert all(map(torch.equal, last.weights, whole.weights))


def test_a_signal_while_data_do_not_come(tmp_path):
    """The last finished step is saved while the program waits for a batch, computes gradients or evaluates."""
    hang = threading.Event()

    class Slow(Numbers):
        def __getitem__(self, index):
            if hang.is_set():
                time.sleep(0.5)
            return super().__getitem__(index)

    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(Slow(), 4)
    with attach(model, optimizer, None, loader, dir=tmp_path, every_s=None) as ckpt:
        for _, items in loader:
            optimizer.zero_grad()
            model(items).mean().backward()
            optimizer.step()
            if ckpt.step == 4:
                wanted = [p.detach().clone() for p in model.parameters()]
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
                hang.set()
            if hang.is_set() and ckpt.step == 5:
                break
        assert list(tmp_path.glob("save-*-step-5")), os.listdir(tmp_path)
    other = torch.nn.Linear(4, 1)
    with attach(other, torch.optim.SGD(other.parameters(), lr=0.1), dir=tmp_path, signals=False) as ckpt:
        assert ckpt.resumed == 5
        assert all(map(torch.equal, other.parameters(), wanted))


def test_a_term_to_all_with_workers(tmp_path):
    """The workers of a DataLoader live until the program has saved; they do not make it fail."""
    code = """
        import os, signal, sys, threading, time, torch
        from slurmext.checkpoint import attach
        os.setpgid(0, 0)
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = torch.utils.data.DataLoader(torch.rand(4000, 1), 4, num_workers=2)
        attach(model, optimizer, None, loader, dir=sys.argv[1], every_s=None)
        for at, items in enumerate(loader):
            model(items).mean().backward()
            optimizer.step()
            if at == 3:
                threading.Timer(0.2, os.killpg, (0, signal.SIGTERM)).start()
            time.sleep(0.02)
    """
    argv = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM
    assert "killed by signal" not in done.stderr, done.stderr
    assert list(tmp_path.glob("save-*"))


def test_gradients_are_added_up_over_batches(tmp_path):
    """Only an optimizer's step ends a step: half of the sum is never saved, its batches are read again."""

    def run(until, seed):
        torch.manual_seed(seed)
        random.seed(seed)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        loader = torch.utils.data.DataLoader(Numbers(), 4, shuffle=True)
        seen = []
        with attach(
            model, optimizer, None, loader, dir=tmp_path / str(until is None and seed == 0), every_s=None, signals=False
        ) as ckpt:
            for _ in ckpt.epochs(1):
                for count, (numbers, items) in enumerate(loader):
                    seen.append(numbers.tolist())
                    model(items).mean().backward()
                    if len(seen) == until:
                        ckpt.save()
                        return seen, None
                    if count % 3 == 2:
                        optimizer.step()
                        optimizer.zero_grad()
            return seen, [p.detach().clone() for p in model.parameters()]

    whole, wanted = run(None, 0)
    first, _ = run(8, 0)
    second, weights = run(None, 5)
    assert first[:6] + second == whole
    assert all(map(torch.equal, weights, wanted))


def test_more_that_is_saved(tmp_path):
    """A scaler that leaves steps out, an average of the weights, a meter, several optimizers."""

    class Meter:
        total = 0.0

        def state_dict(self):
            return {"total": self.total}

        def load_state_dict(self, state):
            self.total = state["total"]

    def make():
        model, mean, meter = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1), Meter()
        optimizers = [torch.optim.Adam([model.weight]), torch.optim.SGD([model.bias], lr=0.1)]
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        ckpt = attach(
            model,
            optimizers,
            scaler=scaler,
            extra={"mean": mean, "meter": meter},
            dir=tmp_path,
            every_s=None,
            signals=False,
        )
        return model, mean, meter, optimizers, scaler, ckpt

    model, mean, meter, optimizers, scaler, ckpt = make()
    for step in ckpt.steps(4):
        scaler.scale(model(torch.randn(3, 4)).mean() * (float("inf") if step == 3 else 1.0)).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
        mean.weight.data.lerp_(model.weight.data, 0.1)
        meter.total += step
    assert ckpt.step == 4
    ckpt.save()
    ckpt.close()
    again = make()
    assert again[-1].resumed == 4 and again[2].total == 10 and again[4].get_scale() == scaler.get_scale() == 32.0
    assert torch.equal(again[0].weight, model.weight) and torch.equal(again[1].weight, mean.weight)
    assert torch.equal(again[3][0].state[again[0].weight]["exp_avg"], optimizers[0].state[model.weight]["exp_avg"])
    again[-1].close()


def test_another_model(tmp_path):
    """The first tensor that does not fit is named, and nothing is changed."""
    with attach(torch.nn.Linear(4, 2), dir=tmp_path, signals=False) as ckpt:
        ckpt.save()
    with pytest.raises(CheckpointError, match=r"weight.*\(3, 4\) here and float32 \(2, 4\)"):
        attach(torch.nn.Linear(4, 3), dir=tmp_path, signals=False)


def test_another_model_is_named_by_its_first_difference(tmp_path):
    """Another layer, another number of optimizers, another configuration: refused in words that say which."""

    def run(width=8, count=1, **options):
        model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(count)]
        return attach(model, optimizers, dir=tmp_path, every_s=None, signals=False, **options)

    with run(identity={"data": "a"}) as ckpt:
        ckpt.save()
    for change, words in (
        ({"width": 9}, r"0.weight.* \(9, 4\) here and float32 \(8, 4\)"),
        ({"count": 2}, "1 optimizers"),
        ({"identity": {"data": "b"}}, "data='a', and this run has data='b'"),
    ):
        with pytest.raises(CheckpointError, match=words), run(**change):
            pass
