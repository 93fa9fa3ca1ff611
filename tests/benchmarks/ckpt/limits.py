"""What the machine can do at best: copy the state in memory, write as many bytes to the disk."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

from ckpt.state import State, flat, nbytes
from ckpt.ways import timed
from slurmext.checkpoint.engine.buffers import Buffer
from slurmext.checkpoint.engine.crew import Crew

WRITERS = 4
BLOCK_MIB = 4


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
    """Writes past the page cache with as many writers and as large blocks as slurmext has, synced at the end.

    By fio where it is installed, else by dd, one process for each writer.
    """

    def __init__(self, place: Path) -> None:
        self._target = place / "raw"
        self.tool = "fio" if shutil.which("fio") else "dd"

    def rate(self, size: int) -> float:
        """Bytes per second of `size` bytes."""
        blocks = max(size // WRITERS // (BLOCK_MIB << 20), 1)
        total = blocks * WRITERS * (BLOCK_MIB << 20)
        self._target.touch()
        subprocess.run(["fallocate", "-l", str(total), str(self._target)], check=False)
        subprocess.run(["sync", str(self._target)], check=True)
        try:
            return total / (self._fio(blocks) if self.tool == "fio" else self._dd(blocks))
        finally:
            self._target.unlink()

    def _dd(self, blocks: int) -> float:
        block = f"bs={BLOCK_MIB}M"
        commands = [
            ["dd", "if=/dev/zero", f"of={self._target}", block, f"count={blocks}", f"seek={number * blocks}",
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
        each = f"{blocks * BLOCK_MIB}M"
        command = ["fio", "--name=raw", f"--filename={self._target}", "--rw=write", f"--bs={BLOCK_MIB}M", "--direct=1",
                   "--ioengine=psync", "--thread", f"--numjobs={WRITERS}", f"--size={each}",
                   f"--offset_increment={each}", "--end_fsync=1", "--group_reporting", "--output-format=json"]  # fmt: skip
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return json.loads(told)["jobs"][0]["write"]["runtime"] / 1000
