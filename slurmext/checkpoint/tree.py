"""A state as a JSON document and a list of arrays, and back. Exact: the same bits, types and order come back."""

from __future__ import annotations

import base64
import struct
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from slurmext.checkpoint.errors import CheckpointError

Document = Any
SIMPLE = (type(None), bool, int, str)


def pack(state: Mapping[str, Any]) -> tuple[Document, list[Any]]:
    """The document of a state and its arrays, which the document refers to by number.

    Values: NumPy arrays, scalars and Generators, None, bool, int, float, str, bytes, lists, tuples and dicts of those,
    and objects with `state_dict()` and `load_state_dict()`. Raises CheckpointError naming any other value.
    """
    arrays: list[Any] = []
    return _pack(dict(state), "state", arrays), arrays


def unpack(document: Document, arrays: Callable[[int], Any]) -> Any:
    """The value of a document; `arrays` gives an array by its number. Raises ValueError, KeyError, TypeError."""
    return _unpack(document, arrays)


def check(target: Any, value: Any, where: str = "state") -> None:
    """Raises CheckpointError when `value` cannot be put into `target`: another shape, type or kind of thing."""
    if _is_array(target):
        if not _is_array(value) or target.shape != value.shape or target.dtype != value.dtype:
            have = f"{value.dtype} {value.shape}" if _is_array(value) else type(value).__name__
            raise CheckpointError(
                f"{where} is {target.dtype} {target.shape} here and {have} in the checkpoint: it is another model's; "
                f"give this run its own directory with --ckpt-dir"
            )
    elif isinstance(target, Mapping) and isinstance(value, Mapping):
        for name in target.keys() & value.keys():
            check(target[name], value[name], f"{where}[{name!r}]")


def put(target: MutableMapping[Any, Any], value: Mapping[Any, Any]) -> None:
    """Load restored values into a state: arrays and dicts in place, so that references to them stay good."""
    for name, new in value.items():
        old = target.get(name)
        if _is_array(old) and _is_array(new):
            old[...] = new
        elif isinstance(old, MutableMapping) and isinstance(new, Mapping):
            for gone in old.keys() - new.keys():
                del old[gone]
            put(old, new)
        elif hasattr(old, "load_state_dict"):
            old.load_state_dict(new)
        elif hasattr(old, "bit_generator"):
            old.bit_generator.state = new
        else:
            target[name] = new


def _pack(value: Any, where: str, arrays: list[Any]) -> Document:
    kind = type(value)
    if kind in SIMPLE:
        return value
    if kind is float:
        return {"float": struct.pack("<d", value).hex()}  # every bit, those of a NaN as well
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if kind in (list, tuple):
        return {kind.__name__: [_pack(item, f"{where}[{index}]", arrays) for index, item in enumerate(value)]}
    if hasattr(value, "load_state_dict") and hasattr(value, "state_dict"):
        return _pack(value.state_dict(), f"{where}.state_dict()", arrays)
    if hasattr(value, "bit_generator"):
        return _pack(value.bit_generator.state, f"{where}.bit_generator.state", arrays)
    if isinstance(value, Mapping):
        return {"dict": [[_key(key, where), _pack(item, f"{where}[{key!r}]", arrays)] for key, item in value.items()]}
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _pack_array(value, where, arrays)
    raise CheckpointError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, which cannot be saved; use NumPy arrays, plain values, "
        "lists, dicts, or an object with state_dict() and load_state_dict()"
    )


def _key(key: Any, where: str) -> Any:
    if type(key) in SIMPLE:
        return key
    raise CheckpointError(f"{where} has the key {key!r}; keys must be str, int, bool or None")


def _pack_array(value: Any, where: str, arrays: list[Any]) -> Document:
    import numpy as np

    if value.dtype.hasobject or value.dtype.kind == "V":
        raise CheckpointError(f"{where} has dtype {value.dtype}, which cannot be saved exactly; use numbers or strings")
    array = np.asarray(value)
    entry = {"dtype": array.dtype.str, "shape": list(array.shape)}
    if isinstance(value, np.generic):
        entry["scalar"] = True
    elif array.flags.f_contiguous and not array.flags.c_contiguous:
        # The layout decides the order of additions in a matrix product, so it is part of the bits.
        entry["fortran"] = True
        array = array.T
    entry["array"] = len(arrays)
    arrays.append(np.ascontiguousarray(array))
    return entry


def _unpack(document: Document, arrays: Callable[[int], Any]) -> Any:
    if not isinstance(document, dict):
        return document
    if "array" in document:
        return _unpack_array(document, arrays)
    ((kind, content),) = document.items()
    match kind:
        case "float":
            return struct.unpack("<d", bytes.fromhex(content))[0]
        case "bytes":
            return base64.b64decode(content)
        case "list":
            return [_unpack(item, arrays) for item in content]
        case "tuple":
            return tuple(_unpack(item, arrays) for item in content)
        case "dict":
            return {key: _unpack(item, arrays) for key, item in content}
    raise ValueError(f"unknown kind {kind!r}")


def _unpack_array(document: Document, arrays: Callable[[int], Any]) -> Any:
    shape = tuple(document["shape"])
    raw = arrays(document["array"]).view(document["dtype"])
    if document.get("fortran"):
        return raw.reshape(shape[::-1]).T
    array = raw.reshape(shape)
    return array[()] if document.get("scalar") else array


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")  # who has an array has NumPy; who has none need not load it
    return numpy is not None and isinstance(value, numpy.ndarray)
