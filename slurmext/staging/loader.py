"""What a job uses: a staged model's tensors by name, mapped without copying; from disk when it is not staged.

    weights = load("org/model@rev")            # torch tensors where torch is imported or installed, else NumPy arrays
    weights["model.embed_tokens.weight"]

    for name, tensor in stream("org/model@rev", to="cuda"):     # in forward order, while the rest is still arriving
        ...

Memory that is staged is mapped, not loaded. Tensors may be written to; that changes this process's copy alone (the
mapping is private), never the staged files.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from slurmext.staging.arriving import Stalled
from slurmext.staging.device import Device, device_of
from slurmext.staging.errors import StagingError
from slurmext.staging.forward import forward_key
from slurmext.staging.places import Place, fallback, find, given_directory, given_place, locate
from slurmext.staging.safetensors import TensorEntry
from slurmext.staging.shards import Shard
from slurmext.staging.sources import Files, Part, Source
from slurmext.staging.tensors import framework_of, tensor_of

log = logging.getLogger(__name__)

WAIT_S: Final = 600.0
_POLL_S: Final = 0.05
_Name = str | os.PathLike[str]


class Weights(Mapping[str, Any]):
    """Tensors by name, each made when it is asked for. `directory` has the model's other files."""

    def __init__(self, directory: Path, parts: Mapping[str, Part], source: Source, framework: str) -> None:
        self.directory = directory
        self._parts = parts
        self._source = source
        self._framework = framework
        self._moved: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._moved:
            return self._moved[name]
        part = self._parts[name]
        return tensor_of(self._source.views[part.file], part.entry, self._framework, part.cut)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def entry(self, name: str) -> TensorEntry:
        """Type, whole shape and place of a tensor."""
        return self._parts[name].entry

    def settle(self, device: Device | None) -> None:
        """Wait for all of it, and move it there. Raises Stalled, OSError."""
        for name, part in self._parts.items():
            self._source.wait(*part.extent)
            if device is not None:
                self._moved[name] = device.put(self[name])

    def arrivals(self, device: Device | None) -> Iterator[tuple[str, Any]]:
        """Tensors in order, each when its bytes are there. Raises Stalled, OSError."""
        for name, part in self._parts.items():
            self._source.wait(*part.extent)
            yield name, self[name] if device is None else device.put(self[name])


def load(
    model: _Name, *, framework: str | None = None, to: Any = None, shard: Shard | None = None,
    roots: str | None = None, wait_s: float = 0.0,
) -> Weights:  # fmt: skip
    """The tensors of a staged model (`org/model`, `org/model@revision`) or of a directory of safetensors files.

    `framework` is `torch` or `numpy`; without it torch where it is. `to` is a torch device ("cuda"). With `shard` each
    tensor is this rank's part. Waits `wait_s` for a model that is being staged. Staged models are looked for below
    `roots` (SLURMEXT_STAGED, colons between); one whose staging failed is read from where it is stored
    (SLURMEXT_PRELOAD_FALLBACK), by several threads past the page cache. Raises NotStaged, BadModel, BadShard, NoDevice.
    """
    framework, device = _asked(framework, to)
    files = Files(locate(model, roots=roots, wait_s=wait_s))
    weights = _opened(files, files.parts(shard), framework)
    weights.settle(device)
    return weights


def stream(
    model: _Name, *, framework: str | None = None, to: Any = None, shard: Shard | None = None,
    roots: str | None = None, wait_s: float = WAIT_S,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """(name, tensor) in the order of the forward pass, each as soon as it is here, complete and checked.

    The model may still be on its way to this node, or not even begun: when nothing more arrives for `wait_s`, the rest
    is read from where it is stored. Otherwise as `load`. Raises NotStaged, BadModel, BadShard, NoDevice.
    """
    framework, device = _asked(framework, to)
    return _stream(model, framework, device, shard, roots, wait_s)


def path(model: _Name, *, roots: str | None = None, wait_s: float = 0.0) -> Path:
    """The directory with the model's files, for programs that read one by themselves (vLLM, transformers, llama.cpp).

    Raises NotStaged.
    """
    return locate(model, roots=roots, wait_s=wait_s).directory


def _stream(
    model: _Name, framework: str, device: Device | None, shard: Shard | None, roots: str | None, wait_s: float
) -> Iterator[tuple[str, Any]]:
    given: set[str] = set()
    place = _begun(model, roots, wait_s)
    while True:
        try:
            files = Files(place, wait_s=wait_s)
            parts = files.parts(shard)
            names = sorted(parts.keys() - given, key=forward_key)
            weights = _opened(files, {name: parts[name] for name in names}, framework)
            for name, tensor in weights.arrivals(device):
                given.add(name)
                yield name, tensor
        except Stalled as error:
            stored = None if given_directory(model) else fallback(os.fspath(model))
            if stored is None or not place.staged:
                raise
            log.warning("%s: reading the rest from %s", error, stored)
            place = Place(directory=stored, staged=False)
        else:
            return


def _begun(model: _Name, roots: str | None, wait_s: float) -> Place:
    """Where the model is, or has begun to arrive."""
    if directory := given_directory(model):
        return given_place(directory)
    deadline_s = time.monotonic() + wait_s
    while True:
        if place := find(os.fspath(model), roots=roots):
            return place
        if time.monotonic() >= deadline_s or fallback(os.fspath(model)):
            return locate(model, roots=roots)
        time.sleep(_POLL_S)


def _opened(files: Files, parts: Mapping[str, Part], framework: str) -> Weights:
    return Weights(files.directory, parts, files.open(parts.values()), framework)


def _asked(framework: str | None, to: Any) -> tuple[str, Device | None]:
    if to is not None and framework == "numpy":
        raise StagingError(f"to={to!r} moves torch tensors: framework='torch'")
    return framework_of("torch" if to is not None else framework), device_of(to)
