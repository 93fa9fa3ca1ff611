"""What a job uses: a staged model's tensors by name, mapped without copying; from disk when it is not staged.

    weights = load("org/model@rev")            # torch tensors where torch is imported or installed, else NumPy arrays
    weights["model.embed_tokens.weight"]

Nothing is read until it is used: memory that is staged is mapped, not loaded. Arrays may be written to; that changes
this process's copy alone (the mapping is private), never the staged files.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from slurmext.staging.errors import BadModel, NotStaged
from slurmext.staging.names import OWN, parse_reference
from slurmext.staging.readers import read_files
from slurmext.staging.safetensors import TensorEntry, read_header

ROOTS: Final = "SLURMEXT_STAGED"
"""Environment variable: directories that hold staged models, separated by colons."""
DEFAULT_ROOTS: Final = "/dev/shm/slurmext/models:/var/lib/slurmext/models"  # noqa: S108 - root's, read only
_NUMPY: Final = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_TORCH: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64", "U64": "uint64",
    "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


class Weights(Mapping[str, Any]):
    """Tensors by name, each made when it is asked for. `directory` has the model's other files."""

    def __init__(self, directory: Path, files: Mapping[str, memoryview], framework: str) -> None:
        self.directory = directory
        self._framework = framework
        self._places: dict[str, tuple[memoryview, TensorEntry]] = {}
        for label, view in files.items():
            header = read_header(_Reader(view), len(view), label)
            for tensor in header.tensors:
                if tensor.name in self._places:
                    raise BadModel(f"{label}: tensor {tensor.name!r} is in another file too")
                self._places[tensor.name] = view, tensor

    def __getitem__(self, name: str) -> Any:
        view, tensor = self._places[name]
        make = _torch_tensor if self._framework == "torch" else _numpy_array
        return make(view, tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def entry(self, name: str) -> TensorEntry:
        """Type, shape and place of a tensor."""
        return self._places[name][1]


def load(model: str | os.PathLike[str], *, framework: str | None = None, roots: str | None = None) -> Weights:
    """The tensors of a staged model (`org/model`, `org/model@revision`) or of a directory of safetensors files.

    `framework` is `torch` or `numpy`; without it torch where it is. Staged models are looked for below `roots`
    (SLURMEXT_STAGED, colons between). A directory elsewhere is read from disk by several threads at once. Raises
    NotStaged, BadModel.
    """
    framework = framework or _framework()
    given = Path(model)
    if given.is_absolute() or str(model).startswith("."):
        if not given.is_dir():
            raise NotStaged(f"{given} is no directory")
        directory = given
    else:
        directory = find_staged(os.fspath(model), roots=roots)
    paths = sorted(directory.glob("**/*.safetensors"))
    if not paths:
        raise BadModel(f"{directory} has no safetensors files")
    if (directory / OWN).is_dir() and _in_memory(directory):
        return Weights(directory, {str(path): _mapped(path) for path in paths}, framework)
    buffer, sizes = read_files(paths)
    views = {str(path): buffer.file(index, size) for index, (path, size) in enumerate(zip(paths, sizes, strict=True))}
    return Weights(directory, views, framework)


def find_staged(reference: str, *, roots: str | None = None) -> Path:
    """The directory of a complete staged model, in memory before on disk. Raises NotStaged."""
    name, revision = parse_reference(reference)
    slug = name.replace("/", "--")
    partly: list[str] = []
    places = (roots or os.environ.get(ROOTS) or DEFAULT_ROOTS).split(":")
    for root in map(Path, filter(None, places)):
        try:
            found = sorted(path for path in (root / slug).iterdir() if not path.name.startswith("."))
        except OSError:
            continue
        for path in found:
            if revision in {None, path.name}:
                if _complete(path):
                    return path
                partly.append(str(path))
    if partly:
        raise NotStaged(f"{reference} is not complete on this node ({partly[0]}): wait for it, or stage it again")
    raise NotStaged(f"{reference} is not on this node (looked in {', '.join(places)}): sbatch --preload={reference}")


def _complete(directory: Path) -> bool:
    # 64 bytes of head, then a byte for each chunk (slurmext.staging.store.ready).
    try:
        with (directory / OWN / "ready").open("rb") as file:
            head = file.read(64)
            count = int.from_bytes(head[8:12], "little")
            return head.startswith(b"sxready1") and file.read(count).count(1) == count
    except OSError:
        return False


def _in_memory(directory: Path) -> bool:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    place = str(directory.resolve())
    within = [row for row in mounts if place == row[1] or place.startswith(row[1].rstrip("/") + "/")]
    return bool(within) and max(within, key=lambda row: len(row[1]))[2] in {"tmpfs", "hugetlbfs", "ramfs"}


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        # Private and writable: torch wants to be able to write, and what is written stays in this process.
        return memoryview(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))


def _framework() -> str:
    return "torch" if "torch" in sys.modules or importlib.util.find_spec("torch") else "numpy"


def _numpy_array(view: memoryview, tensor: TensorEntry) -> Any:
    import numpy as np  # noqa: PLC0415

    if tensor.dtype not in _NUMPY:
        raise BadModel(f"tensor {tensor.name!r}: NumPy has no {tensor.dtype}; load it with framework='torch'")
    flat = np.frombuffer(view[tensor.begin : tensor.end], dtype=_NUMPY[tensor.dtype])
    return flat.reshape(tensor.shape)


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


class _Reader:
    """As much of a file as `read_header` needs."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, count: int) -> bytes:
        piece = bytes(self._view[self._at : self._at + count])
        self._at += len(piece)
        return piece
