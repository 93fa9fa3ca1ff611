"""PyTorch's tensors as leaves: on the CPU by address, on a GPU by copies on a side stream, DTensor by its shard.

Imported when there is a tensor, and so only where there is PyTorch.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from slurmext.checkpoint.engine.arrays import Leaf, torch_dtype_text
from slurmext.checkpoint.engine.errors import CheckpointError

_BY_TEXT: dict[str, Any] = {}


def leaf(value: Any, name: str) -> Leaf:
    """A tensor's Leaf. Raises CheckpointError for sparse, quantized and meta tensors."""
    tensor = value.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        what = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        what = "meta" if tensor.is_meta else what
        raise CheckpointError(f"{name} is a {what} tensor, which cannot be saved; use a dense tensor with values")
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    shape = tuple(tensor.shape)
    found = Leaf(
        name=name, kind="torch", dtype=torch_dtype_text(tensor.dtype), shape=shape, whole=shape,
        offset=(0,) * len(shape), owner=tensor,
    )  # fmt: skip
    if tensor.is_cpu and tensor.is_contiguous():
        found.address = tensor.data_ptr()

    def get(into: memoryview, first: int, last: int) -> None:
        rows = tensor[first:last] if tensor.ndim else tensor
        view = torch.frombuffer(into, dtype=torch.uint8).view(tensor.dtype).view(rows.shape)
        view.copy_(rows, non_blocking=tensor.is_cuda)

    def put(content: Any) -> None:
        filled = torch.frombuffer(content, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)
        with torch.no_grad():
            tensor.copy_(filled)

    found.get, found.put = get, put
    return found


def empty(dtype: str, shape: Sequence[int]) -> Any:
    """A new tensor on the CPU."""
    if not _BY_TEXT:
        kinds = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
        _BY_TEXT.update({torch_dtype_text(kind): kind for kind in kinds})
    return torch.empty(tuple(shape), dtype=_BY_TEXT[dtype])


def is_distributed(value: Any) -> bool:
    """Whether it is a DTensor, as FSDP2 and tensor parallelism make them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def part_of(value: Any, name: str) -> tuple[Any, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A DTensor's local tensor, the whole shape, the offset, and the ranks that hold the same part."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = value.device_mesh, value.placements
    if any(placement.is_partial() for placement in placements):
        raise CheckpointError(f"{name} is a DTensor with a pending reduction: redistribute it before saving")
    local = value.to_local()
    shape, offset = compute_local_shape_and_global_offset(value.shape, mesh, placements)
    if tuple(shape) != tuple(local.shape):
        raise CheckpointError(f"{name} is a DTensor laid out in a way that cannot be saved: {placements}")
    ranks = mesh.mesh
    where = mesh.get_coordinate()
    # The ranks that differ from this one only along replicated dimensions of the mesh hold the same part.
    index = tuple(
        slice(None) if placement.is_replicate() else place for placement, place in zip(placements, where, strict=True)
    )
    return local, tuple(value.shape), tuple(offset), tuple(int(rank) for rank in ranks[index].reshape(-1).tolist())


class DeviceCopies:
    """Copies from GPUs to pinned memory, on streams of their own.

    They begin when a GPU has done what its current stream was given, and what that is given after `end` waits for them;
    the processor waits for neither. A thread beside the program's main one does not see the streams that the program
    works on: there everything is waited for, before and after. `cuda`: torch.cuda.
    """

    def __init__(self, devices: Iterable[Any], cuda: Any = None) -> None:
        self._cuda = torch.cuda if cuda is None else cuda
        self._aside = threading.current_thread() is not threading.main_thread()
        self._streams: dict[Any, Any] = {}
        self._events: list[Any] = []
        for device in devices:
            if self._aside:
                self._cuda.synchronize(device)
            self._streams[device] = stream = self._cuda.Stream(device)
            stream.wait_stream(self._cuda.current_stream(device))

    def copy(self, device: Any, work: Iterable[tuple[Any, Callable[[], object]]]) -> None:
        """Queue copies: (tensor on that device, what copies it)."""
        stream = self._streams[device]
        with self._cuda.stream(stream):
            for tensor, get in work:
                tensor.record_stream(stream)  # its memory is not given to others while it is being read
                get()

    def end(self) -> None:
        """All copies are queued: what follows on the current streams waits for them."""
        for device, stream in self._streams.items():
            event = self._cuda.Event()
            event.record(stream)
            self._cuda.current_stream(device).wait_event(event)
            self._events.append(event)
        if self._aside:
            self.wait()

    def wait(self) -> None:
        """Until every copy has arrived."""
        for event in self._events:
            event.synchronize()
        self._events.clear()


def pin(address: int, size: int) -> bool:
    """Register memory with CUDA so that copies run at full speed beside kernels; False where that is not possible."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    if int(torch.cuda.cudart().cudaHostRegister(address, size, 0)) == 0:
        return True
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")  # CUDA tells an error once more with the next kernel: not with the program's
    return False


def unpin(address: int) -> None:
    """Undo `pin`."""
    torch.cuda.cudart().cudaHostUnregister(address)
