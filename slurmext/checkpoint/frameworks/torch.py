"""PyTorch: one line before the training loop.

    ckpt = slurmext.checkpoint.attach(model, optimizer, scheduler, loader)
    for epoch in ckpt.epochs(10):
        for batch in loader:
            ...
            optimizer.step()
            scheduler.step()

The state is quiet from the next fetch of a batch, or the next forward pass, until the next `optimizer.step()`: there a
snapshot can be taken at any moment, while the program waits for data, evaluates or computes gradients.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from slurmext.checkpoint.checkpointer import AUTO, Checkpointer
from slurmext.checkpoint.cost import CostMeter
from slurmext.checkpoint.errors import CheckpointError
from slurmext.checkpoint.frameworks.torch_loader import Position
from slurmext.checkpoint.frameworks.torch_random import get_random, set_random
from slurmext.checkpoint.frameworks.torch_state import ModelState, OptimizerState, is_sharded, marker
from slurmext.checkpoint.interval import Interval
from slurmext.checkpoint.memory import wanted_every_s

_MEMORY = 0.9


def attach(
    model: nn.Module, optimizer: Any = None, scheduler: Any = None, loader: Any = None, *, scaler: Any = None,
    extra: Mapping[str, Any] | None = None, dir: str | os.PathLike[str] | None = None,  # noqa: A002
    every_s: float | str | None = AUTO, keep: int = 2, signals: bool = True, replicated: bool | None = None,
    identity: str | Mapping[str, Any] | None = None, memory_every_s: float | str | None = None,
) -> Attached:  # fmt: skip
    """Restore what was saved, and from now on save when told to, before the time limit and now and then (`every_s`).

    `model`: after it was moved to its device and wrapped (DDP, fully_shard, torch.compile). `optimizer`, `scheduler`:
    one or several. `loader`: the DataLoader of the training data. `scaler`: a GradScaler. `extra`: more that has
    state_dict() and load_state_dict(), by name: a module (an EMA of the weights), a meter. `replicated`: whether all
    ranks hold the same parameters; found out for DDP and fully_shard, else the parameters of each rank are its own.
    `identity`: of code and configuration, a word or a dict like `vars(options)`; a checkpoint of another is refused.
    `memory_every_s`: seconds between saves in memory, made between those on disk (see Checkpointer).

    Raises CheckpointError.
    """
    return Attached(
        model, _several(optimizer), _several(scheduler), loader, scaler=scaler, extra=extra or {}, directory=dir,
        every_s=every_s, keep=keep, signals=signals, replicated=replicated, identity=identity,
        memory_every_s=wanted_every_s(memory_every_s),
    )  # fmt: skip


class Attached:
    """`step`: finished optimizer steps, over all runs. `resumed`: the step this run began at, None for a new one."""

    def __init__(
        self, model: nn.Module, optimizers: list[Any], schedulers: list[Any], loader: Any, *, scaler: Any,
        extra: Mapping[str, Any], directory: str | os.PathLike[str] | None, every_s: float | str | None, keep: int,
        signals: bool, replicated: bool | None, identity: str | Mapping[str, Any] | None,
        memory_every_s: float | str | None,
    ) -> None:  # fmt: skip
        self._saver = Checkpointer(
            {}, directory, every_s=every_s, keep=keep, signals=signals, identity=identity,
            memory_every_s=memory_every_s,
        )  # fmt: skip
        self._gate = self._saver.gate
        world = self._saver.place.world
        mark = marker(world=world, same_everywhere=_same_everywhere(model) if replicated is None else replicated)
        self._model = ModelState(model, mark)
        self._optimizers = [OptimizerState(each, self._model.names, mark) for each in optimizers]
        self._schedulers, self._scaler, self._extra = schedulers, scaler, extra
        self._modules = {name: ModelState(each, mark) for name, each in extra.items() if isinstance(each, nn.Module)}
        self.loader = loader
        self.position = Position(get_random, set_random, self._saver.place.rank)
        if loader is not None:
            self.position.track(loader)
        self._stream: Any = None
        self._dirty = False
        self._step_s = 0.0
        self._last_s: float | None = None
        self.step = 0
        try:
            self.resumed = self._restore()
        except BaseException:
            self._saver.close()
            raise
        self._captured = self._capture()
        self._saver.capture = self._tree
        self._saver.around = self._on_stream
        self._saver.costs.meter = CostMeter()
        self._hook(model)
        self.position.before_fetch = self._boundary
        self.position.before_pass = self._before_pass
        self._saver.begin().patience_s = self._patience_s
        self._gate.boundary(self.step)

    @property
    def epoch(self) -> int:
        """The pass over the loader that the program is in."""
        return self.position.epoch

    @property
    def batch(self) -> int:
        """How many batches of this pass were handed out, by former runs as well."""
        return self.position.taken

    @property
    def interval(self) -> Interval:
        """How often it saves by itself, and why: `interval.reasons()`."""
        return self._saver.interval

    def epochs(self, count: int) -> Iterator[int]:
        """`range(count)` from where this run begins; samplers that shuffle by epoch are told."""
        for epoch in range(self.position.epoch, count):
            self.position.choose(epoch)
            yield epoch
        self._boundary()

    def steps(self, count: int) -> Iterator[int]:
        """The numbers of the steps to do, up to `count`: for loops without a loader."""
        for step in range(self.step + 1, count + 1):
            yield step
            self._boundary()

    def ask(self) -> None:
        """Save after this step, in all ranks."""
        self._saver.ask()

    def save(self) -> None:
        """Save now and wait until it is on disk; all ranks at the same step, between steps."""
        self._boundary()
        self._saver.save(self.step, wait=True)

    def close(self) -> None:
        """Finish what is under way. The end of the program does this too."""
        self._saver.close()

    def __enter__(self) -> Attached:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # hooks, in the training thread

    def _hook(self, model: nn.Module) -> None:
        for each in self._optimizers:
            each.optimizer.register_step_pre_hook(lambda *_: self._enter())
        for part in {id(each): each for each in (model, getattr(model, "module", model))}.values():
            part.register_forward_pre_hook(self._before_forward)
        if self._scaler is not None:
            update = self._scaler.update

            def entering(*args: Any, **named: Any) -> Any:
                self._enter()  # a step that the scaler leaves out changes the scale all the same
                return update(*args, **named)

            self._scaler.update = entering

    def _enter(self) -> None:
        self._gate.enter()
        self._dirty = True

    def _before_forward(self, *_: Any) -> None:
        if torch.compiler.is_compiling() or not self._dirty:
            return
        self._boundary()

    def _boundary(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        self.step += 1
        self._captured = self._capture()
        now = time.monotonic()
        if self._last_s is not None:
            took_s = now - self._last_s
            self._step_s = _MEMORY * self._step_s + (1 - _MEMORY) * took_s if self._step_s else took_s
        self._last_s = now
        if self._saver.costs.meter is not None and (cost_s := self._saver.costs.meter.step(now)) is not None:
            self.interval.cost(cost_s)
        self._gate.boundary(self.step)

    def _before_pass(self) -> None:
        """A new pass begins: what the program did since the last boundary belongs to it."""
        if self._dirty:
            self._boundary()
        elif self._gate.quiet and self.resumed is None and self.step == 0:
            self._captured = self._capture()  # seeds may have been set after `attach`

    def _patience_s(self, most_s: float) -> float:
        return min(3 * self._step_s + 0.2, most_s) if self._last_s is not None else 0.0

    # the state

    def _capture(self) -> dict[str, Any]:
        """What is small and moves on before the next step does: taken at each boundary."""
        self._model.boundary()
        for module in self._modules.values():
            module.boundary()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._stream = torch.cuda.current_stream()
        return {
            "world": self._saver.place.world,
            "groups": [each.groups() for each in self._optimizers],
            "schedulers": [each.state_dict() for each in self._schedulers],
            "scaler": _scaler_state(self._scaler),
            "extra": {name: each.state_dict() for name, each in self._extra.items() if name not in self._modules},
            "random": get_random(),
            "loader": self.position.state() if self.loader is not None else None,
        }

    def _tree(self) -> dict[str, Any]:
        return {
            "model": self._model.tree(),
            "optimizers": [each.tree() for each in self._optimizers],
            "modules": {name: each.tree() for name, each in self._modules.items()},
            "own": self._captured,
        }

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Copies from a GPU wait for what the training thread has queued, and it for them."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def _restore(self) -> int | None:
        if self._saver.has_saved():
            for each in self._optimizers:
                each.prepare()
        template = {
            "model": self._model.template(),
            "optimizers": [each.tree() for each in self._optimizers],
            "modules": {name: each.template() for name, each in self._modules.items()},
        }
        found = self._saver.load(template)
        if found is None:
            for each in self._optimizers:
                if any(map(is_sharded, self._model.parameters.values())):
                    each.optimizer.state.clear()
            return None
        step, value = found
        own = value["own"]
        if len(value["optimizers"]) != len(self._optimizers) or len(own["schedulers"]) != len(self._schedulers):
            raise CheckpointError(
                f"{self._saver.directory} has {len(value['optimizers'])} optimizers and {len(own['schedulers'])} "
                f"schedulers, attach() got {len(self._optimizers)} and {len(self._schedulers)}: give the same ones"
            )
        for each, saved, groups in zip(self._optimizers, value["optimizers"], own["groups"], strict=True):
            each.put(saved, groups)
        for each, saved in zip(self._schedulers, own["schedulers"], strict=True):
            each.load_state_dict(saved)
        for name, each in self._extra.items():
            if name not in self._modules and name in own["extra"]:
                each.load_state_dict(own["extra"][name])
        if self._scaler is not None and own["scaler"] is not None:
            self._scaler.load_state_dict({name: _plain(item) for name, item in own["scaler"].items()})
        self._model.forget()
        for module in self._modules.values():
            module.forget()
        self._put_random(own, step)
        self.step = step
        return step

    def _put_random(self, own: Mapping[str, Any], step: int) -> None:
        place = self._saver.place
        if place.rank < own["world"]:
            set_random(own["random"])
            random_state = own["random"]
        else:  # this rank is new: a state of its own, the same each time
            torch.manual_seed(step * 1_000_003 + place.rank)
            random_state = get_random()
        if self.loader is not None and own["loader"] is not None:
            self.position.restore(own["loader"], random_state)


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value]


def _same_everywhere(model: nn.Module) -> bool:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return True
    inner: Any = getattr(model, "_orig_mod", None)
    if inner is not None:
        return _same_everywhere(inner)
    return any(map(is_sharded, model.parameters()))


def _scaler_state(scaler: Any) -> dict[str, Any] | None:
    """Without waiting for the GPU, as `state_dict()` does."""
    if scaler is None or not scaler.is_enabled():
        return None
    scale, tracker = getattr(scaler, "_scale", None), getattr(scaler, "_growth_tracker", None)
    if not isinstance(scale, torch.Tensor) or not isinstance(tracker, torch.Tensor):
        return dict(scaler.state_dict())
    return {
        "scale": scale.detach().clone(), "growth_factor": scaler.get_growth_factor(),
        "backoff_factor": scaler.get_backoff_factor(), "growth_interval": scaler.get_growth_interval(),
        "_growth_tracker": tracker.detach().clone(),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
