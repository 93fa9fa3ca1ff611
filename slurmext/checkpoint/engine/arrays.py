"""Arrays of NumPy, PyTorch and JAX seen alike: dtype, place in the whole array, memory.

A dtype is written as NumPy writes it (`<f4`), and by name where NumPy has none (`bfloat16`), so that what one framework
saved another can read.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slurmext.checkpoint.engine.errors import CheckpointError

_NAMED = {
    "bfloat16": 2, "complex32": 4, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1, "float8_e4m3": 1, "float8_e3m4": 1, "float8_e4m3b11fnuz": 1,
}  # fmt: skip
_TORCH = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "|i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "|u1", "bool": "|b1", "complex64": "<c8",
    "complex128": "<c16", "complex32": "complex32",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sharded:
    """A rank's part of an array that several ranks hold together.

    `shape`: of the whole array; `offset`: of this part in it; `replicas`: the ranks that hold this very part, this one
    included; one of them, or each a share of it, writes it. Empty: this rank alone.
    """

    local: Any
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    replicas: tuple[int, ...] = ()


def replicated(local: Any, world: int) -> Sharded:
    """An array that every one of `world` ranks holds whole and alike."""
    shape = tuple(local.shape)
    return Sharded(local=local, shape=shape, offset=(0,) * len(shape), replicas=tuple(range(world)))


@dataclass(slots=True, kw_only=True)
class Leaf:
    """An array in a state: what is written of it and what is filled on restore.

    `address` is that of its memory when that is contiguous and of this process; else None and `get` and `put` copy.
    `shape` and `offset` are in the order of memory, `whole` is the shape of the whole array.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    whole: tuple[int, ...]
    offset: tuple[int, ...]
    replicas: tuple[int, ...] = ()
    sharded: bool = False
    fortran: bool = False
    scalar: bool = False
    address: int | None = None
    owner: Any = None
    get: Callable[[memoryview, int, int], None] | None = None
    put: Callable[[Any], None] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of this part."""
        return math.prod(self.shape) * itemsize(self.dtype)


@functools.cache
def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    if dtype in _NAMED:
        return _NAMED[dtype]
    digits = dtype.partition("[")[0][2:]
    return int(digits) * (4 if dtype[1] == "U" else 1)


def dtype_text(dtype: str) -> str:
    """For people: float32 for `<f4`."""
    names = {value: key for key, value in _TORCH.items()}
    return names.get(dtype, dtype)


def is_array(value: Any) -> bool:
    """Whether it is an array of a framework that is loaded (who has an array has loaded it)."""
    kind = _KINDS.get(type(value))
    return bool(_kind(value) if kind is None else kind)


def leaf(value: Any, name: str) -> Leaf:
    """An array of whatever kind as a Leaf. Raises CheckpointError naming one that cannot be saved exactly."""
    kind = _kind(value)
    if kind == "sharded":
        return _part(value.local, value.shape, value.offset, value.replicas, name)
    if kind == "torch":
        tensors = _of_torch()
        if tensors.is_distributed(value):
            return _part(*tensors.part_of(value, name), name)
        return tensors.leaf(value, name)
    return _jax_leaf(value, name) if kind == "jax" else _numpy_leaf(value, name)


@functools.cache
def _of_torch() -> Any:
    """The module for tensors; once, since an import statement takes longer than what it does for a tensor."""
    from slurmext.checkpoint.engine import torch_arrays

    return torch_arrays


def _kind(value: Any) -> str:
    """Whose array it is, empty when it is none. By type, looked up once: a state may have many thousand arrays."""
    if (kind := _KINDS.get(type(value))) is None:
        if isinstance(value, Sharded):
            kind = "sharded"
        else:
            checks = {"numpy": _is_numpy, "torch": _is_torch, "jax": _is_jax}
            kind = next((name for name, is_kind in checks.items() if is_kind(value)), "")
        _KINDS[type(value)] = kind
    return kind


_KINDS: dict[type, str] = {}


def new_array(kind: str, dtype: str, shape: Sequence[int]) -> Any:
    """An uninitialised array to be filled: a tensor for what was one, else NumPy's (JAX takes those)."""
    if kind == "torch":
        return _of_torch().empty(dtype, shape)
    import numpy as np

    return np.empty(tuple(shape), numpy_dtype(dtype))


def numpy_dtype(dtype: str) -> Any:
    """NumPy's dtype; those by name come from ml_dtypes, which JAX brings along."""
    import numpy as np

    if dtype not in _NAMED:
        return np.dtype(dtype)
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, dtype))
    except (ImportError, AttributeError):
        raise CheckpointError(
            f"NumPy has no {dtype}: pip install ml_dtypes, or restore into tensors of the model that saved it"
        ) from None


@functools.cache
def torch_dtype_text(dtype: Any) -> str:
    """The name we write for a torch.dtype."""
    name = str(dtype).removeprefix("torch.")
    return _TORCH.get(name, name)


def memory(address: int, size: int) -> memoryview:
    """Bytes at an address."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _part(local: Any, whole: Sequence[int], offset: Sequence[int], replicas: Sequence[int], name: str) -> Leaf:
    part = leaf(local, name)
    whole, offset = tuple(map(int, whole)), tuple(map(int, offset))
    if part.fortran:
        part = _copied(local, part)
    fits = len(whole) == len(offset) == len(part.shape) and all(
        start >= 0 and start + size <= limit for start, size, limit in zip(offset, part.shape, whole, strict=True)
    )
    if not fits:
        raise CheckpointError(f"{name}: a part of shape {part.shape} at {offset} does not lie within {whole}")
    part.whole, part.offset, part.replicas, part.sharded = whole, offset, tuple(sorted(replicas)), True
    return part


def _copied(array: Any, part: Leaf) -> Leaf:
    """The Leaf of a NumPy array in Fortran order as one whose elements are put into C order one by one."""
    part.shape = part.whole = tuple(array.shape)
    part.fortran, part.address = False, None
    part.get, part.put = _numpy_copies(array, part)
    return part


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray | numpy.generic)


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "Tensor") and isinstance(value, torch.Tensor)


def _is_jax(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and hasattr(jax, "Array") and isinstance(value, jax.Array)


def _numpy_leaf(value: Any, name: str) -> Leaf:
    import numpy as np

    dtype = value.dtype.name if value.dtype.name in _NAMED else value.dtype.str
    if value.dtype.hasobject or (value.dtype.kind == "V" and dtype not in _NAMED):
        raise CheckpointError(f"{name} has dtype {value.dtype}, which cannot be saved exactly; use numbers or strings")
    scalar = isinstance(value, np.generic)
    array = np.asarray(value)
    # The layout decides the order of additions in a matrix product, so it is part of the bits.
    fortran = bool(array.flags.f_contiguous and not array.flags.c_contiguous)
    flat = array.T if fortran else array
    shape = tuple(flat.shape)
    found = Leaf(
        name=name, kind="numpy", dtype=dtype, shape=shape, whole=shape, offset=(0,) * len(shape), fortran=fortran,
        scalar=scalar, owner=array,
    )  # fmt: skip
    if flat.flags.c_contiguous:
        found.address = flat.ctypes.data
    found.get, found.put = _numpy_copies(flat, found)
    return found


def _numpy_copies(array: Any, part: Leaf) -> tuple[Callable[[memoryview, int, int], None], Callable[[Any], None]]:
    import numpy as np

    def get(into: memoryview, first: int, last: int) -> None:
        rows = array[first:last] if array.ndim else array
        np.copyto(np.frombuffer(into, array.dtype).reshape(rows.shape), rows)

    def put(content: Any) -> None:
        if not array.flags.writeable:
            raise CheckpointError(f"{part.name} is read-only and cannot be restored into")
        np.copyto(array, np.frombuffer(content, array.dtype).reshape(array.shape))

    return get, put


def _jax_leaf(value: Any, name: str) -> Leaf:
    import numpy as np

    if not value.is_fully_addressable:
        raise CheckpointError(f"{name} is spread over processes: give each one's part as Sharded(...)")
    found = _numpy_leaf(np.asarray(value), name)
    found.kind, found.fortran = "jax", False
    return found
