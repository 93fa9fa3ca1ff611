"""A state as a JSON document and a list of arrays, and back. Exact: the same bits, types and order come back."""

from __future__ import annotations

import base64
import struct
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from slurmext.checkpoint.engine.arrays import Leaf, Sharded, dtype_text, is_array, leaf
from slurmext.checkpoint.engine.errors import CheckpointError, MismatchError

Document = Any
SIMPLE = (type(None), bool, int, str)
ANOTHER = "it is another model's; give this run its own directory with --ckpt-dir"


def pack(state: Any, *, suffix: str = "") -> tuple[Document, list[Leaf]]:
    """The document of a state and its arrays, which the document refers to by name.

    Values: arrays of NumPy, PyTorch and JAX, `Sharded` parts of arrays, generators of random numbers, None, bool, int,
    float, str, bytes, lists, tuples and dicts of those, and objects with `state_dict()` and `load_state_dict()`.
    `suffix` tells the arrays that are this rank's own from other ranks'. Raises CheckpointError naming any other value.
    """
    packer = _Packer(suffix)
    document = packer.pack(dict(state) if isinstance(state, Mapping) else state, "state")
    return document, packer.leaves


class _Packer:
    def __init__(self, suffix: str) -> None:
        self.leaves: list[Leaf] = []
        self._suffix = suffix
        self._seen: dict[tuple[Any, ...], str] = {}

    def pack(self, value: Any, where: str) -> Document:
        kind = type(value)
        if kind in SIMPLE:
            return value
        if kind is float:
            return {"float": struct.pack("<d", value).hex()}  # every bit, those of a NaN as well
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode()}
        if kind in (list, tuple):
            return {kind.__name__: [self.pack(item, f"{where}[{index}]") for index, item in enumerate(value)]}
        if is_array(value):
            return self._array(value, where)
        if hasattr(value, "load_state_dict") and hasattr(value, "state_dict"):
            return self.pack(value.state_dict(), f"{where}.state_dict()")
        if hasattr(value, "bit_generator"):
            return self.pack(value.bit_generator.state, f"{where}.bit_generator.state")
        if _is_torch_generator(value):
            return self.pack(value.get_state(), f"{where}.get_state()")
        if isinstance(value, Mapping):
            items = [[_key(key, where), self.pack(item, f"{where}[{key!r}]")] for key, item in value.items()]
            return {"dict": items}
        raise CheckpointError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, which cannot be saved; use arrays, plain values, "
            "lists, dicts, or an object with state_dict() and load_state_dict()"
        )

    def _array(self, value: Any, where: str) -> Document:
        found = leaf(value, where)
        if not found.sharded:
            found.name += self._suffix
        entry: Document = {"dtype": found.dtype, "shape": list(found.shape)}
        if found.scalar:
            entry["scalar"] = True
        if found.fortran:
            entry["shape"].reverse()
            entry["fortran"] = True
        if found.kind != "numpy":
            entry["kind"] = found.kind
        if found.sharded:
            entry["whole"], entry["offset"] = list(found.whole), list(found.offset)
        # Tied weights: one memory under several names is written once.
        memory = (found.address, found.dtype, found.shape, found.whole, found.offset, found.sharded)
        name = self._seen.setdefault(memory, found.name) if found.address and found.nbytes else found.name
        if name == found.name:
            self.leaves.append(found)
        entry["array"] = name
        return entry


Ask = Callable[[Document, Any, str], None]


def bind(document: Document, template: Any, ask: Ask, where: str = "state") -> None:
    """Go through a document and what the program holds in the same places; `ask` is called for each array in order.

    Raises MismatchError naming the first array that the two have in different shapes, types or not at all, before
    anything was changed. Arrays the program does not hold yet are asked for with None: those of an empty dict or of
    lists, as an optimizer fills them with its first step.
    """
    template = _contents(template)
    if isinstance(document, dict) and "array" in document:
        _bind_array(document, template, ask, where)
        return
    if is_array(template):
        raise MismatchError(f"{where} is {_text_of(template, where)} here and no array in the checkpoint: {ANOTHER}")
    if not isinstance(document, dict):
        return
    ((kind, content),) = document.items()
    if kind == "dict":
        held = template if isinstance(template, Mapping) else {}
        complete = any(is_array(value) for value in held.values())
        for key, item in content:
            if complete and key not in held and (name := _first_array(item, f"{where}[{key!r}]")):
                raise MismatchError(f"{name} is in the checkpoint and not here: {ANOTHER}")
            bind(item, held.get(key), ask, f"{where}[{key!r}]")
        saved = {key for key, _ in content}
        for key, value in held.items():
            if key not in saved and (name := _first_held(value, f"{where}[{key!r}]")):
                raise MismatchError(f"{name} is here and not in the checkpoint: {ANOTHER}")
    elif kind in {"list", "tuple"}:
        held_items = template if isinstance(template, list | tuple) and len(template) == len(content) else ()
        for index, item in enumerate(content):
            bind(item, held_items[index] if held_items else None, ask, f"{where}[{index}]")


def unpack(document: Document, array: Callable[[Document], Any]) -> Any:
    """The value of a document; `array` gives the arrays, in order. Raises ValueError, KeyError, TypeError."""
    if not isinstance(document, dict):
        return document
    if "array" in document:
        return array(document)
    ((kind, content),) = document.items()
    match kind:
        case "float":
            return struct.unpack("<d", bytes.fromhex(content))[0]
        case "bytes":
            return base64.b64decode(content)
        case "list":
            return [unpack(item, array) for item in content]
        case "tuple":
            return tuple(unpack(item, array) for item in content)
        case "dict":
            return {key: unpack(item, array) for key, item in content}
    raise ValueError(f"unknown kind {kind!r}")


def put(target: MutableMapping[Any, Any], value: Mapping[Any, Any]) -> None:
    """Load restored values into a state: dicts in place, objects by their own means. Arrays are filled already."""
    for name, new in value.items():
        old = target.get(name)
        if new is old:
            continue
        if isinstance(old, MutableMapping) and isinstance(new, Mapping):
            for gone in old.keys() - new.keys():
                del old[gone]
            put(old, new)
        elif not is_array(old) and hasattr(old, "load_state_dict"):
            old.load_state_dict(new)
        elif hasattr(old, "bit_generator"):
            old.bit_generator.state = new
        elif _is_torch_generator(old):
            old.set_state(new)
        else:
            target[name] = new


def _bind_array(document: Document, template: Any, ask: Ask, where: str) -> None:
    if is_array(template):
        held = leaf(template, where)
        shape = document.get("whole") or document["shape"]
        mine = held.whole[::-1] if held.fortran else held.whole
        if list(mine) != list(shape) or held.dtype != document["dtype"]:
            raise MismatchError(
                f"{where} is {_text_of(template, where)} here and {dtype_text(document['dtype'])} {tuple(shape)} "
                f"in the checkpoint: {ANOTHER}"
            )
    else:
        template = None
    ask(document, template, where)


def _contents(template: Any) -> Any:
    """What an object's state_dict() has, so that tensors of modules and optimizers are filled in place."""
    if is_array(template) or isinstance(template, Mapping):
        return template
    if hasattr(template, "load_state_dict") and hasattr(template, "state_dict"):
        return template.state_dict()
    return template


def _first_array(document: Document, where: str) -> str | None:
    if not isinstance(document, dict):
        return None
    if "array" in document:
        return where
    ((kind, content),) = document.items()
    if kind == "dict":
        return next((found for key, item in content if (found := _first_array(item, f"{where}[{key!r}]"))), None)
    if kind in {"list", "tuple"}:
        pairs = enumerate(content)
        return next((found for index, item in pairs if (found := _first_array(item, f"{where}[{index}]"))), None)
    return None


def _first_held(value: Any, where: str) -> str | None:
    value = _contents(value)
    if is_array(value):
        return where
    if isinstance(value, Mapping):
        return next((name for key, item in value.items() if (name := _first_held(item, f"{where}[{key!r}]"))), None)
    return None


def _text_of(value: Any, where: str) -> str:
    held = leaf(value, where)
    return f"{dtype_text(held.dtype)} {held.whole[::-1] if held.fortran else held.whole}"


def _is_torch_generator(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "Generator") and isinstance(value, torch.Generator)


def _key(key: Any, where: str) -> Any:
    if type(key) in SIMPLE:
        return key
    raise CheckpointError(f"{where} has the key {key!r}; keys must be str, int, bool or None")


__all__ = ["Document", "Sharded", "bind", "pack", "put", "unpack"]
