"""Tensors over memory that holds a safetensors file: torch's or NumPy's, without copying."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any, Final

from slurmext.staging.errors import BadModel, StagingError
from slurmext.staging.safetensors import TensorEntry

FRAMEWORKS: Final = ("torch", "numpy")
_NUMPY: Final = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_ML_DTYPES: Final = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_TORCH: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16", "I32": "int32",
    "U32": "uint32", "F32": "float32", "I64": "int64", "U64": "uint64", "F64": "float64", "C64": "complex64",
    **_ML_DTYPES,
}  # fmt: skip


def framework_of(given: str | None) -> str:
    """The framework asked for; torch where it is, when none was. Raises StagingError."""
    if given is None:
        return "torch" if "torch" in sys.modules or importlib.util.find_spec("torch") else "numpy"
    if given not in FRAMEWORKS:
        raise StagingError(f"framework={given!r}: one of {', '.join(FRAMEWORKS)}")
    return given


def tensor_of(view: memoryview, tensor: TensorEntry, framework: str, cut: tuple[int, int, int] | None = None) -> Any:
    """The tensor whose file is `view`; with `cut` its part [begin, end) of a dimension. Raises BadModel."""
    whole = _torch_tensor(view, tensor) if framework == "torch" else _numpy_array(view, tensor)
    if cut is None:
        return whole
    dimension, begin, end = cut
    return whole[(*[slice(None)] * dimension, slice(begin, end))]


def _numpy_array(view: memoryview, tensor: TensorEntry) -> Any:
    import numpy as np  # noqa: PLC0415

    kind: Any = _NUMPY.get(tensor.dtype)
    if kind is None:
        try:
            kind = getattr(importlib.import_module("ml_dtypes"), _ML_DTYPES[tensor.dtype])
        except (ImportError, KeyError, AttributeError):
            raise BadModel(
                f"tensor {tensor.name!r}: NumPy has no {tensor.dtype}; load it with framework='torch'"
            ) from None
    return np.frombuffer(view[tensor.begin : tensor.end], dtype=kind).reshape(tensor.shape)


def _torch_tensor(view: memoryview, tensor: TensorEntry) -> Any:
    import torch  # noqa: PLC0415

    kind = getattr(torch, _TORCH.get(tensor.dtype, "-"), None)
    if kind is None:
        raise BadModel(f"tensor {tensor.name!r}: this torch has no {tensor.dtype}")
    if tensor.begin == tensor.end:
        return torch.empty(tensor.shape, dtype=kind)
    piece = view[tensor.begin : tensor.end]
    if tensor.begin % kind.itemsize:
        raw = bytearray(piece)  # torch reads aligned memory only; headers of usual writers are padded
        return torch.frombuffer(raw, dtype=kind).reshape(tensor.shape)
    return torch.frombuffer(piece, dtype=kind).reshape(tensor.shape)
