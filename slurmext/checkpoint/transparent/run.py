"""One run of a program in namespaces of its own, seen from outside: its keeper, and the copying of its output."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from slurmext.checkpoint.transparent import dumps, namespaces
from slurmext.checkpoint.transparent.keeper import Keeper, Task


class Run:
    """The namespaces with a program in them, and the threads that copy its output."""

    def __init__(self, program: str, command: Sequence[str], dump: dumps.Dump | None) -> None:
        out, err = os.pipe(), os.pipe()
        self.talk, theirs = socket.socketpair()
        self._buffer = b""
        self._pending = list[dict[str, Any]]()
        clock = tuple(dump.about["clock"]) if dump else None
        task = Task(
            criu=program, command=command, dump=dump.path if dump else None, about=dump.about if dump else None,
            out=out[1], err=err[1], ignored=(signal.SIGUSR1,),
        )  # fmt: skip
        self._middle = os.fork()
        if self._middle == 0:
            try:
                for descriptor in (out[0], err[0]):
                    os.close(descriptor)
                self.talk.close()
                _inside(task, theirs, clock)
            finally:
                os._exit(1)
        theirs.close()
        os.close(out[1])
        os.close(err[1])
        self._copiers = [
            threading.Thread(target=_copy, args=(source, target), daemon=True)
            for source, target in ((out[0], 1), (err[0], 2))
        ]
        for copier in self._copiers:
            copier.start()

    def send(self, message: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            self.talk.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float | None) -> dict[str, Any] | None:
        """What the keeper says next, None when it says nothing in time; an end without a word is {"ended": …}."""
        if self._pending:
            return self._pending.pop(0)
        while b"\n" not in self._buffer:
            if not select.select([self.talk], [], [], timeout_s)[0]:
                return None
            chunk = self.talk.recv(65536)
            if not chunk:
                return {"ended": {"status": signal.SIGKILL}}
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def again(self, message: dict[str, Any]) -> None:
        """Have `receive` say this once more."""
        self._pending.append(message)

    def drain(self, *, everything: bool) -> None:
        """Wait until all that the dumped program has written is copied."""
        if everything:
            for copier in self._copiers:
                copier.join(30)

    def close(self) -> None:
        self.talk.close()
        self.drain(everything=True)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._middle, 0)


def _inside(task: Task, talk: socket.socket, clock: tuple[float, ...] | None) -> None:
    """In a child: make the namespaces, and their first process, and wait for it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Slurm signals every process of a job
    namespaces.die_with_parent(signal.SIGKILL)
    try:
        namespaces.enter(clock_s=(clock[0], clock[1]) if clock else None)
    except namespaces.NoNamespacesError as error:
        talk.sendall(json.dumps({"failed": str(error)}).encode() + b"\n")
        return
    first = os.fork()
    if first == 0:
        try:
            Keeper(task, talk).run()
        finally:
            os._exit(0)
    talk.close()
    os.close(task.out)
    os.close(task.err)
    os.waitpid(first, 0)
    os._exit(0)


def _copy(source: int, target: int) -> None:
    try:
        while chunk := os.read(source, 1 << 16):
            while chunk:
                chunk = chunk[os.write(target, chunk) :]
    except OSError:
        pass
    finally:
        os.close(source)
