"""From the signal to the confirmation: processes that train together, signalled at once; the agent is played here.

`measure` starts them; run as a program this is one of them: `ranks.py DIRECTORY BYTES TIMES`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

STEP_S = 0.02
WAIT_S = 120


def measure(place: Path, size: int, *, world: int, times: int) -> dict[str, float]:
    """Medians in seconds: from the signal to the agent's news of the checkpoint, copy and write of the slowest rank, and
    the rest in milliseconds, the least of it as well.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as agent:
        address = str(Path(folder, "agent"))
        agent.bind(address)
        agent.listen()
        news: queue.Queue[float] = queue.Queue()
        threading.Thread(target=play_agent, args=(agent, news), daemon=True).start()
        programs = [start(rank, world, place, size // world, times, address) for rank in range(world)]
        try:
            for program in programs:
                line(program)  # ready
            taken = [one_signal(programs, news) for _ in range(times)]
        finally:
            for program in programs:
                program.kill()
                program.wait()
    columns = list(zip(*taken[1:], strict=True))  # the first warms up
    confirmed_s, copy_and_write_s, extra_s = (statistics.median(values) for values in columns)
    return {
        "confirmed_s": confirmed_s, "copy_and_write_s": copy_and_write_s, "extra_ms": 1000 * extra_s,
        "least_extra_ms": 1000 * min(columns[2]),
    }  # fmt: skip


def start(rank: int, world: int, place: Path, size: int, times: int, address: str) -> subprocess.Popen[str]:
    """One process."""
    environment = {
        **os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "SLURM_JOB_ID": "1",
        "SLURMEXT_AGENT_SOCKET": address, "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, __file__, str(place), str(size), str(times)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def line(program: subprocess.Popen[str]) -> list[str]:
    """The next line a process says."""
    words = program.stdout.readline().split() if program.stdout else []
    if not words:
        raise SystemExit(f"a rank ended with {program.wait()}")
    return words


def play_agent(listener: socket.socket, news: queue.Queue[float]) -> None:
    """Answer whoever asks; when a checkpoint is confirmed, put the time into `news`."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # closed: the end
        with connection, contextlib.suppress(OSError, ValueError):
            told = json.loads(connection.makefile("rb").readline())
            confirms = told.get("op") == "ckpt_confirm"
            if confirms and told["on_signal"]:
                news.put(time.perf_counter())
            connection.sendall(
                b'{"ok": true}\n' if confirms else b'{"ok": false, "error": "this node keeps no copies"}\n'
            )


def one_signal(programs: list[subprocess.Popen[str]], news: queue.Queue[float]) -> tuple[float, float, float]:
    """(until confirmed, slowest rank's copy and write, the rest) in seconds."""
    started = time.perf_counter()
    for program in programs:
        program.send_signal(signal.SIGUSR1)
    confirmed = news.get(timeout=WAIT_S) - started
    slowest = max(float(line(program)[1]) for program in programs)
    time.sleep(0.5 + 3.5 * max(confirmed, 0.3))  # one within three saves' time waits: a storm of signals does no harm
    return confirmed, slowest, confirmed - slowest


def rank_program(place: str, size: int, times: int) -> None:
    """Steps of a fixed length; says what each save took."""
    import numpy as np

    from slurmext.checkpoint import Checkpointer

    state = {f"w{i}": np.zeros(size // 100 // 4, np.float32) for i in range(100)}
    with Checkpointer(state, place, every_s=None) as ckpt:
        ckpt.restore()
        ckpt._hold().prepare(state)
        print("ready", flush=True)
        step = done = 0
        while done < times:
            step += 1
            time.sleep(STEP_S)
            for array in state.values():
                array[0] = step
            if ckpt.due(step):
                ckpt.save(step)
                done += 1
                print("saved", ckpt._cost["stall_s"] + ckpt._cost["write_s"], flush=True)
        time.sleep(WAIT_S)  # until killed: who leaves first would take the directory along


if __name__ == "__main__":
    rank_program(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
