"""The safetensors format, checked to the last byte: what a damaged or hostile file claims is refused at import.

Eight bytes length of the header (little endian), the header (JSON: name -> dtype, shape, data_offsets), then the
tensors without holes or overlaps. https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from slurmext.staging.errors import BadModel

MOST_HEADER_BYTES: Final = 100_000_000
_LENGTH_BYTES: Final = 8

BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element of each type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor of a file; `begin` and `end` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A file's tensors in the order of their bytes, where their bytes begin, and the file's own remarks."""

    tensors: tuple[TensorEntry, ...]
    data_begin: int
    metadata: Mapping[str, str] = field(default_factory=dict)


class Readable(Protocol):
    """As much of a file as is needed."""

    def read(self, count: int, /) -> bytes: ...


def read_header(file: Readable, size: int, label: str) -> Header:
    """Read and check the header of an open file of `size` bytes. Raises BadModel naming `label`."""
    prefix = file.read(_LENGTH_BYTES)
    if len(prefix) < _LENGTH_BYTES:
        raise BadModel(f"{label}: {size} bytes are too few for safetensors; the file was cut off: copy it again")
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= MOST_HEADER_BYTES:  # noqa: PLR2004 - {} is the shortest
        raise BadModel(f"{label}: a header of {length} bytes; at most {MOST_HEADER_BYTES}: not a safetensors file")
    if _LENGTH_BYTES + length > size:
        raise BadModel(f"{label}: the header needs {_LENGTH_BYTES + length} bytes, the file has {size}: copy it again")
    raw = file.read(length)
    return parse_header(raw, size, label)


def parse_header(raw: bytes, size: int, label: str) -> Header:
    """Check a header's JSON against a file of `size` bytes. Raises BadModel naming `label`."""
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{label}: the header is no JSON ({str(error)[:80]}): copy the file again") from error
    if not isinstance(document, dict):
        raise BadModel(f"{label}: the header is no JSON object: not a safetensors file")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadModel(f"{label}: __metadata__ must be text by name")
    data_begin = _LENGTH_BYTES + len(raw)
    tensors = sorted(
        (_tensor(name, entry, data_begin, label) for name, entry in document.items()),
        key=lambda tensor: (tensor.begin, tensor.end, tensor.name),
    )
    at = data_begin
    for tensor in tensors:
        if tensor.begin != at:
            what = "overlaps what comes before it" if tensor.begin < at else f"leaves {tensor.begin - at} bytes unused"
            raise BadModel(f"{label}: tensor {tensor.name!r} {what}: the file is damaged or was made to deceive")
        at = tensor.end
    if at != size:
        what = "was cut off" if at > size else "has bytes that belong to no tensor"
        raise BadModel(f"{label}: the tensors end at byte {at}, the file at {size}: it {what}; copy it again")
    return Header(tensors=tuple(tensors), data_begin=data_begin, metadata=metadata)


def _tensor(name: str, entry: object, data_begin: int, label: str) -> TensorEntry:
    dtype, shape, offsets = (
        (entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")) if isinstance(entry, dict) else (None,) * 3
    )
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadModel(f"{label}: tensor {name!r} has the type {dtype!r}; known are {', '.join(BITS)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:  # noqa: PLR2004
        raise BadModel(f"{label}: tensor {name!r} has no usable shape and data_offsets")
    begin, end = offsets
    bits = math.prod(shape) * BITS[dtype]
    if end < begin or bits % 8 or bits // 8 != end - begin:
        raise BadModel(
            f"{label}: tensor {name!r} of shape {shape} and type {dtype} needs {bits / 8:g} bytes, not {end - begin}"
        )
    return TensorEntry(name=name, dtype=dtype, shape=tuple(shape), begin=data_begin + begin, end=data_begin + end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 62 for item in value
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name occurs twice")
    return document
