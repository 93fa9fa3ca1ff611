"""The ways to save and restore that are compared, behind one face."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from ckpt.state import State, flat
from slurmext.checkpoint.engine import Engine


class Way(ABC):
    """`save` starts saving and returns when training may go on; `finish` waits until it is on disk."""

    name = ""

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder
        self.state = state
        self.number = 0
        self.under_way: Any = None
        """What `save` left to do, with a `result()` that waits."""
        folder.mkdir(parents=True)

    @abstractmethod
    def save(self) -> None:
        """Start."""

    def finish(self) -> None:
        """Wait until it is durable."""
        if self.under_way is not None:
            with quiet():
                self.under_way.result()

    def settle(self) -> None:
        """Wait until nothing works in the background any more, nor in the kernel."""
        os.sync()

    @abstractmethod
    def restore(self, into: State) -> None:
        """Read the last one into the tensors of `into`."""

    def close(self) -> None:
        """End and remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self) -> Path:
        """Where the next or last save goes; the one before is removed by `save`, untimed in `next`."""
        return self.folder / f"save-{self.number}"

    def next(self) -> None:
        """Make room for the next save."""
        shutil.rmtree(self.folder / f"save-{self.number - 1}", ignore_errors=True)
        self.number += 1


class Ours(Way):
    """slurmext's engine."""

    name = "slurmext"

    def __init__(self, folder: Path, state: State, snapshots: int = 2) -> None:
        super().__init__(folder, state)
        self.engine = Engine(folder)
        self.engine.prepare(state, snapshots=snapshots)

    def save(self) -> None:
        self.under_way = self.engine.save(self.number, self.state)

    def settle(self) -> None:
        self.engine.wait()
        super().settle()

    def next(self) -> None:
        self.engine.wait()  # it removes what is old by itself
        self.number += 1

    def restore(self, into: State) -> None:
        if self.engine.restore(into) is None:
            raise SystemExit("nothing to restore")

    def close(self) -> None:
        self.engine.close()
        super().close()


class TorchSave(Way):
    """torch.save, and the fsync without which it is not on disk."""

    name = "torch.save + fsync"

    def save(self) -> None:
        self.path().mkdir()
        with (self.path() / "state.pt").open("wb") as file:
            torch.save(self.state, file)
            file.flush()
            os.fsync(file.fileno())

    def restore(self, into: State) -> None:
        torch.load(self.path() / "state.pt")


class DcpSave(Way):
    """PyTorch's distributed checkpoint, synchronous, two writer threads."""

    name = "DCP save"

    def save(self) -> None:
        with quiet():
            dcp.save(flat(self.state), storage_writer=self.writer())

    def writer(self) -> Any:
        return dcp.FileSystemWriter(self.path(), thread_count=2)

    def restore(self, into: State) -> None:
        with quiet():
            dcp.load(flat(into), checkpoint_id=self.path())


class DcpThread(DcpSave):
    """Its asynchronous mode as it comes: copies to new memory, saves in a thread."""

    name = "DCP async thread"
    kind = AsyncCheckpointerType.THREAD

    def __init__(self, folder: Path, state: State) -> None:
        super().__init__(folder, state)
        self.stager: Any = None

    def save(self) -> None:
        with quiet():
            answer = dcp.async_save(
                flat(self.state),
                storage_writer=self.writer(),
                async_checkpointer_type=self.kind,
                async_stager=self.stager,
            )
            self.under_way = getattr(answer, "upload_completion", answer)

    def close(self) -> None:
        if self.stager is not None:
            self.stager.close()
        super().close()


class DcpCached(DcpThread):
    """With a stager that keeps its memory (pinned where there is a GPU)."""

    name = "DCP async cached stager"

    def __init__(self, folder: Path, state: State) -> None:
        super().__init__(folder, state)
        pinned = torch.cuda.is_available()
        self.stager = DefaultStager(StagingOptions(pinned, False, False, pinned))


class DcpProcess(DcpThread):
    """Saved by a process of its own, out of shared memory that is kept."""

    name = "DCP async process"
    kind = AsyncCheckpointerType.PROCESS

    def __init__(self, folder: Path, state: State) -> None:
        super().__init__(folder, state)
        pinned = torch.cuda.is_available()
        self.stager = DefaultStager(StagingOptions(pinned, True, False, pinned))
        with no_stderr():  # the process has this one's, and would tell of every request
            dcp.async_save(
                {"first": torch.zeros(1)}, checkpoint_id=folder / "first", async_checkpointer_type=self.kind
            ).result()


WAYS: tuple[type[Way], ...] = (Ours, TorchSave, DcpSave, DcpThread, DcpCached, DcpProcess)


@contextlib.contextmanager
def quiet() -> Any:
    """Without DCP's warnings about a single process."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def no_stderr() -> Any:
    """Whatever is started within says nothing there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def one_process_group(place: Path) -> Callable[[], None]:
    """What DCP's process mode wants; call the result at the end."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{place}/group")
    return dist.destroy_process_group


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def drop_cached(folder: Path) -> None:
    """Forget what the page cache has of these files, so that reading them is cold."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n", encoding="ascii")
    except OSError:  # not root
        for path in folder.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
