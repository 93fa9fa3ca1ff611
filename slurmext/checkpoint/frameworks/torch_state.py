"""A model and its optimizers as a tree of named tensors that can be read while the program is in a forward pass.

`state_dict()` cannot be called then (FSDP swaps parameters for gathered ones), so the tensors are looked up once, when
the model is attached, and read where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from slurmext.checkpoint.engine import replicated
from slurmext.checkpoint.errors import CheckpointError, MismatchError

_SMALL_BYTES = 1 << 20
"""Buffers beyond this are tables that hardly any forward pass changes: copied when one did."""
Mark = Callable[[torch.Tensor], Any]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DDP and torch.compile: names in a checkpoint do not depend on how it is wrapped."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # noqa: SLF001
        else:
            return model


def is_sharded(tensor: Any) -> bool:
    """Whether it is a DTensor, as FSDP2 and tensor parallelism make them."""
    return isinstance(tensor, torch.Tensor) and hasattr(tensor, "device_mesh")


def marker(*, world: int, same_everywhere: bool) -> Mark:
    """How the engine is told whose a tensor is: a DTensor says so itself, others are every rank's or its own."""
    if world == 1 or not same_everywhere:
        return lambda tensor: tensor
    return lambda tensor: tensor if is_sharded(tensor) else replicated(tensor, world)


class ModelState:
    """Parameters are shared property of the ranks, buffers (running means) are each rank's own."""

    def __init__(self, model: nn.Module, mark: Mark) -> None:
        self._mark = mark
        if any(type(part).__name__ == "FullyShardedDataParallel" for part in model.modules()):
            raise CheckpointError(
                "FSDP1 modules cannot be saved: use torch.distributed.fsdp.fully_shard, PyTorch's own successor"
            )
        core = unwrapped(model)
        parameters = {id(p) for p in core.parameters()}
        kept = core.state_dict(keep_vars=True)
        tensors = {name: value for name, value in kept.items() if isinstance(value, torch.Tensor)}
        self.parameters = {name: value for name, value in tensors.items() if id(value) in parameters}
        self.names = {id(value): name for name, value in self.parameters.items()}
        self._buffers = {name: value for name, value in tensors.items() if id(value) not in parameters}
        self._copies: dict[str, torch.Tensor] = {}
        self._versions: dict[str, int] = {}
        self.forget()

    def boundary(self) -> None:
        """Forward passes change buffers: keep them as they are now."""
        # Batch normalisation does not count its changes in `_version`, so small buffers are copied whether or not.
        changed = [name for name, buffer in self._buffers.items()
                   if name in self._small or buffer._version != self._versions[name]]  # noqa: SLF001  # fmt: skip
        for name in changed:
            if name not in self._copies:
                self._copies[name] = self._buffers[name].detach().clone()
            self._versions[name] = self._buffers[name]._version  # noqa: SLF001
        if changed:
            with torch.no_grad():
                torch._foreach_copy_(
                    [self._copies[name] for name in changed], [self._buffers[name] for name in changed]
                )

    def forget(self) -> None:
        """The buffers as they are now are those to save until the next boundary."""
        self._versions = {name: buffer._version for name, buffer in self._buffers.items()}  # noqa: SLF001
        self._small = {
            name for name, value in self._buffers.items() if value.numel() * value.element_size() <= _SMALL_BYTES
        }
        self._copies = {name: self._buffers[name].detach().clone() for name in self._small}

    def tree(self) -> dict[str, Any]:
        """At the last boundary."""
        return {
            "parameters": {name: self._mark(value.detach()) for name, value in self.parameters.items()},
            "buffers": {name: self._copies.get(name, value.detach()) for name, value in self._buffers.items()},
        }

    def template(self) -> dict[str, Any]:
        """To be filled by a restore."""
        return {
            "parameters": {name: self._mark(value.detach()) for name, value in self.parameters.items()},
            "buffers": {name: value.detach() for name, value in self._buffers.items()},
        }


class OptimizerState:
    """An optimizer's state by the names of its parameters, so that it fits however they are sharded."""

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str], mark: Mark) -> None:
        if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
            raise CheckpointError(
                "ZeroRedundancyOptimizer cannot be saved: shard with torch.distributed.fsdp.fully_shard"
            )
        self.optimizer, self._mark = optimizer, mark
        self._parameters: dict[str, torch.Tensor] = {}
        for number, group in enumerate(optimizer.param_groups):
            for index, parameter in enumerate(group["params"]):
                self._parameters[names.get(id(parameter), f"{number}.{index}")] = parameter

    def groups(self) -> list[dict[str, Any]]:
        """The settings of the parameter groups, as they are now."""
        return [
            {name: _copied(value) for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]

    def tree(self) -> dict[str, Any]:
        """The state of each parameter."""
        return {
            name: {key: self._marked(value) for key, value in self.optimizer.state[parameter].items()}
            for name, parameter in self._parameters.items()
            if parameter in self.optimizer.state
        }

    def prepare(self) -> None:
        """Make the state of sharded parameters, so that a restore can fill each rank's part of it."""
        if self.optimizer.state or not any(map(is_sharded, self._parameters.values())):
            return
        rates = [group["lr"] for group in self.optimizer.param_groups]
        grads = {name: parameter.grad for name, parameter in self._parameters.items()}
        for parameter in self._parameters.values():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = torch.zeros_like(rate) if isinstance(rate, torch.Tensor) else 0.0
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for name, parameter in self._parameters.items():
            parameter.grad = grads[name]

    def put(self, saved: Mapping[str, Any], groups: list[Mapping[str, Any]]) -> None:
        """Take over what was restored."""
        if len(groups) != len(self.optimizer.param_groups):
            raise MismatchError(
                f"the optimizer has {len(self.optimizer.param_groups)} parameter groups here and {len(groups)} in the "
                "checkpoint: it is another model's; give this run its own directory with --ckpt-dir"
            )
        for group, settings in zip(self.optimizer.param_groups, groups, strict=True):
            for name, value in settings.items():
                old = group.get(name)
                if isinstance(old, torch.Tensor) and isinstance(value, torch.Tensor):
                    old.copy_(value)
                else:
                    group[name] = value
        for name, parameter in self._parameters.items():
            if name not in saved:
                self.optimizer.state.pop(parameter, None)
                continue
            held: MutableMapping[str, Any] = self.optimizer.state[parameter]
            for key, value in saved[name].items():
                if isinstance(value, torch.Tensor) and held.get(key) is not value and not is_sharded(value):
                    held[key] = value.to(_device_of(key, parameter, self.optimizer))
                else:
                    held[key] = getattr(value, "local", value)

    def _marked(self, value: Any) -> Any:
        return self._mark(value.detach()) if isinstance(value, torch.Tensor) else value


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _device_of(key: str, parameter: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.device:
    """Steps are counted on the CPU unless the optimizer runs as one kernel (see Optimizer.load_state_dict)."""
    if key == "step" and not any(g.get("capturable") or g.get("fused") for g in optimizer.param_groups):
        return torch.device("cpu")
    return parameter.device
