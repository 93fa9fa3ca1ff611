"""Ranks of one program, forked from a process that has imported PyTorch: what torchrun does, in a third of the time.

forked_ranks.py 4 train_torch.py --epochs=2
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import signal
import socket
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch._dynamo
import torch.distributed
from torch.nn import parallel
from torch.utils import data

LOADED = (torch, parallel, data)


def rank(number: int, world: int, arguments: list[str]) -> int:
    """Be one of them, in a session of its own."""
    os.setsid()
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def meeting_point(first: int) -> int:
    """A port of the ten from `first` on, which are this job's: what a run before it left behind may still have its own."""
    for port in range(first, first + 10):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
    raise SystemExit(f"ports {first} to {first + 9} are taken")


def main() -> int:
    """Start them, pass a TERM on, and wait."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, write_through=False)  # they share it: whole lines
    os.environ["MASTER_PORT"] = str(meeting_point(int(os.environ["MASTER_PORT"])))
    world, arguments = int(sys.argv[1]), sys.argv[2:]
    pids: list[int] = []
    for number in range(world):
        pids.append(os.fork())
        if not pids[-1]:
            code = rank(number, world, arguments)
            sys.stdout.flush()
            os._exit(code)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in pids])
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


if __name__ == "__main__":
    sys.exit(main())
