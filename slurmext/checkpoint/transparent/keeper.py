"""The first process inside the namespaces: starts or restores the program, dumps it when asked, reports its end.

It speaks with the wrapper outside over a socket, a JSON object to a line:
    wrapper: {"dump": "<folder>", "leave_running": false}      keeper: {"dumped": {...}} or {"refused": "<why>"}
                                                               keeper: {"started": {...}}, {"failed": "<why>"},
                                                                       {"ended": <wait status>}
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.errors import CheckpointError
from slurmext.checkpoint.transparent import criu, files, gpu, namespaces, obstacles

FIRST_ID = 300
OWN_IDS_FROM = 4_000_000
"""Where CRIU's own processes get their ids: far from those of the program."""
FALLBACK_IDS_FROM = 30_000


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to keep: a command, or the folder of a dump to bring back. `out` and `err` are write ends of pipes."""

    criu: str
    command: Sequence[str] = ()
    dump: Path | None = None
    about: Mapping[str, Any] | None = None
    out: int
    err: int
    ignored: tuple[int, ...] = ()
    """Signals that the program shall ignore from its start, as it would without a wrapper."""


class Keeper:
    """Runs in the namespaces until the program ends. `talk` is the socket to the wrapper."""

    def __init__(self, task: Task, talk: socket.socket) -> None:
        self._task, self._talk = task, talk
        self._pid = 0
        self._inodes = [os.fstat(task.out).st_ino, os.fstat(task.err).st_ino]
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Start or restore, then serve; ends this process's namespaces with the program."""
        namespaces.die_with_parent(signal.SIGKILL)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        try:
            namespaces.settle()
            began_s = time.monotonic()
            self._pid = self._restore() if self._task.dump else self._start()
            self._say("started", pid=self._pid, took_s=time.monotonic() - began_s)
        except (CheckpointError, OSError) as error:
            self._say_text("failed", str(error))
            return
        os.close(self._task.out)
        os.close(self._task.err)
        self._serve()

    def _start(self) -> int:
        namespaces.start_ids_at(FIRST_ID)
        null = os.open(os.devnull, os.O_RDONLY)  # opened here: CRIU must find its mount in this namespace

        def ready() -> None:
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
                signal.signal(number, signal.SIG_DFL)
            for number in self._task.ignored:
                signal.signal(number, signal.SIG_IGN)
            namespaces.drop_capabilities()

        process = subprocess.Popen(
            self._task.command, stdin=null, stdout=self._task.out, stderr=self._task.err, start_new_session=True,
            preexec_fn=ready, cwd=Path.cwd(),  # noqa: PLW1509 - one thread. The cwd anew, on this namespace's mount
        )  # fmt: skip
        process.returncode = 0  # it is waited for below
        os.close(null)
        return process.pid

    def _restore(self) -> int:
        about = self._task.about or {}
        assert self._task.dump is not None  # noqa: S101
        self._own_ids()
        out, err = (int(inode) for inode in about["pipes"])
        criu.restore(self._task.criu, self._task.dump, {out: self._task.out, err: self._task.err})
        if users := [int(pid) for pid in about.get("gpu", ())]:
            gpu.Driver().resume(users)
        return int(about["pid"])

    def _serve(self) -> None:
        reader, buffer = self._talk, b""
        while True:
            ready = select.select([reader, self._wake[0]], [], [])[0]
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
            status = self._reap()
            if status is not None:
                self._say("ended", status=status)
                return
            if reader in ready:
                chunk = reader.recv(65536)
                if not chunk:
                    return  # the wrapper is gone
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    asked = json.loads(line)
                    if "signal" in asked:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(self._pid, int(asked["signal"]))
                    elif self._dump(Path(asked["dump"]), leave_running=bool(asked.get("leave_running"))):
                        return

    def _dump(self, folder: Path, *, leave_running: bool) -> bool:
        """Answer a request for a dump; True when the program stopped with it."""
        users = list[int]()
        try:
            pids = obstacles.below(self._pid)
            if found := obstacles.of_processes(pids):
                raise CheckpointError("; ".join(found[:5]))  # noqa: TRY301
            opened = files.open_files(pids)
            if found_users := gpu.users(pids):
                gpu.Driver().suspend(found_users)
                users = found_users
            clock = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
            self._own_ids()
            took_s = criu.dump(self._task.criu, self._pid, folder, self._inodes, leave=leave_running)
            files.sizes_now(opened)  # nobody writes now
        except (CheckpointError, OSError) as error:
            if users:
                with contextlib.suppress(CheckpointError):
                    gpu.Driver().resume(users)
            self._say_text("refused", str(error))
            return False
        if leave_running:
            for pid in obstacles.below(self._pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            if users:
                gpu.Driver().resume(users)
        self._say(
            "dumped",
            pid=self._pid, pipes=self._inodes, clock=clock, files=opened, gpu=users, took_s=took_s, processes=len(pids),
        )  # fmt: skip
        return not leave_running

    def _reap(self) -> int | None:
        """The program's wait status when it has ended; others' ends are only taken note of."""
        ended = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid == self._pid:
                ended = status

    @staticmethod
    def _own_ids() -> None:
        try:
            namespaces.start_ids_at(OWN_IDS_FROM)
        except OSError:
            namespaces.start_ids_at(FALLBACK_IDS_FROM)  # where pid_max is the small one

    def _say(self, what: str, **detail: object) -> None:
        with contextlib.suppress(OSError):
            self._talk.sendall(json.dumps({what: detail}).encode() + b"\n")

    def _say_text(self, what: str, text: str) -> None:
        with contextlib.suppress(OSError):
            self._talk.sendall(json.dumps({what: text}).encode() + b"\n")
