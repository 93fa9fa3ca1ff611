"""What the machine can do at best: copy the state in memory, write as many bytes to the disk."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ckpt.state import State, flat, nbytes
from ckpt.ways import timed
from slurmext.checkpoint.engine.buffers import Buffer
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.engine import WRITERS
from slurmext.checkpoint.engine.stream import BLOCK


class Floor:
    """A plain snapshot: two threads memcpy the tensors into memory that is mapped already and in huge pages."""

    def __init__(self, state: State) -> None:
        tensors = list(flat(state).values())
        self._buffer = Buffer(nbytes(state) + (1 << 20), Crew(2))
        self._copy = ctypes.CDLL(None).memcpy
        self._copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        at = 0
        self._parts: tuple[list[tuple[int, int, int]], ...] = ([], [])
        for tensor in tensors:
            half = self._parts[0 if at * 2 < nbytes(state) else 1]
            half.append((self._buffer.address + at, tensor.data_ptr(), tensor.nbytes))
            at += -(-tensor.nbytes // 64) * 64

    def seconds(self) -> float:
        """One copy of everything."""

        def work(parts: list[tuple[int, int, int]]) -> None:
            for part in parts:
                self._copy(*part)

        started = time.perf_counter()
        other = threading.Thread(target=work, args=(self._parts[1],))
        other.start()
        work(self._parts[0])
        other.join()
        return time.perf_counter() - started


class RawDisk:
    """Writes past the page cache with as many writers and as large blocks as slurmext has, synced at the end."""

    def __init__(self, place: Path) -> None:
        self._target = place / "raw"
        self._crew = Crew(WRITERS)
        self._source = Buffer(BLOCK * WRITERS)
        self._source.view[:] = os.urandom(BLOCK) * (self._source.capacity // BLOCK)
        self.tool = "fio" if shutil.which("fio") else "dd"

    def rate(self, size: int) -> float:
        """Bytes per second of `size` bytes: by fio where it is installed, else by dd, a process for each writer."""
        return self._measure(size, self._fio if self.tool == "fio" else self._dd)

    def rate_from_huge_pages(self, size: int) -> float:
        """The same, out of memory like our snapshots': the kernel hands it to the disk in fewer pieces."""
        return self._measure(size, self._threads)

    def _measure(self, size: int, write: Callable[[int], float]) -> float:
        blocks = max(size // WRITERS // BLOCK, 1)
        total = blocks * WRITERS * BLOCK
        with self._target.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, total)
            os.fsync(file.fileno())
        try:
            return total / write(blocks)
        finally:
            self._target.unlink()

    def _threads(self, blocks: int) -> float:
        descriptor = os.open(self._target, os.O_WRONLY | os.O_DIRECT)

        def write(number: int) -> None:
            at = number % WRITERS * BLOCK
            os.pwrite(descriptor, self._source.view[at : at + BLOCK], number * BLOCK)

        def all_of_it() -> None:
            self._crew.each(write, range(blocks * WRITERS))
            os.fsync(descriptor)

        try:
            return timed(all_of_it)
        finally:
            os.close(descriptor)

    def _dd(self, blocks: int) -> float:
        commands = [
            ["dd", "if=/dev/zero", f"of={self._target}", f"bs={BLOCK}", f"count={blocks}", f"seek={number * blocks}",
             "oflag=direct", "conv=notrunc,fsync"]
            for number in range(WRITERS)
        ]  # fmt: skip

        def all_at_once() -> None:
            running = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]
            for program in running:
                if program.wait() != 0:
                    raise SystemExit("dd oflag=direct fails here: give --dir on a file system with direct I/O")

        return timed(all_at_once)

    def _fio(self, blocks: int) -> float:
        each = str(blocks * BLOCK)
        command = ["fio", "--name=raw", f"--filename={self._target}", "--rw=write", f"--bs={BLOCK}", "--direct=1",
                   "--ioengine=psync", "--thread", f"--numjobs={WRITERS}", f"--size={each}",
                   f"--offset_increment={each}", "--end_fsync=1", "--group_reporting", "--output-format=json"]  # fmt: skip
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return json.loads(told)["jobs"][0]["write"]["runtime"] / 1000
