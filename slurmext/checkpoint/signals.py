"""Signals seen by a thread within a millisecond, whatever the program's main thread is doing.

A handler written in Python waits until the main thread's present C call ends; what CPython's own handler writes into
the wake-up descriptor does not. USR1 and USR2 are blocked in the main thread and open in ours: system calls of the
program are not interrupted, and programs it starts inherit them blocked, so that they neither die of them nor act.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from slurmext.checkpoint.errors import CheckpointError

QUIET = frozenset({signal.SIGUSR1, signal.SIGUSR2})
"""Signals that mean a checkpoint and nothing else."""
_JOB_WIDE_S = 1.0
"""A TERM to a child this soon after one to its parent was sent to the whole job, not to the child."""
_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()


def wanted_signal(spec: str | None = None) -> signal.Signals:
    """The signal of `--ckpt` (`auto` is USR1, else SIGNAL@SECONDS), as the job finds it in SLURMEXT_CKPT."""
    spec = os.environ.get("SLURMEXT_CKPT", "auto") if spec is None else spec
    name = spec.partition(",")[0].partition("@")[0] or "auto"
    if name in {"auto", "transparent"}:
        return signal.SIGUSR1
    try:
        return signal.Signals["SIG" + name.removeprefix("SIG")]
    except KeyError:
        raise CheckpointError(
            f"SLURMEXT_CKPT={spec}: no such signal; use 'auto' or SIGNAL@SECONDS like USR1@60"
        ) from None


class Listener:
    """`wait` in one thread returns the signals that came. A handler that the program had is still called."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self.numbers = frozenset(numbers)
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.settimeout(0)
        self._owner = os.getpid()
        self._former: dict[int, Callable[[int, Any], object] | None] = {}
        self._by_wakeup: set[int] = set()
        self._chained = -1
        self._blocked: set[signal.Signals] = set()
        self._installed = False
        # Shared with forked children: when this process last got a TERM.
        self._terminated = mmap.mmap(-1, mmap.PAGESIZE)

    def install(self) -> None:
        """Take the signals from now on, once. Raises CheckpointError outside the main thread."""
        if self._installed:
            return
        if threading.current_thread() is not threading.main_thread():
            raise CheckpointError(
                "only the main thread can take signals: make the Checkpointer there, or pass signals=False and save "
                "on your own schedule"
            )
        self._installed = True
        self._chained = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self.numbers:
            former = signal.signal(number, self._handle)
            self._former[number] = former if callable(former) else None
        self._blocked = set(self.numbers & QUIET) - set(signal.pthread_sigmask(signal.SIG_BLOCK, self.numbers & QUIET))
        _listeners.add(self)

    def remove(self) -> None:
        """Put back what was there, where ours still stands and this is the main thread."""
        if not self._installed or os.getpid() != self._owner:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        self._installed = False
        for number, former in self._former.items():
            if signal.getsignal(number) == self._handle:
                # Not the default action of USR1: that would end the process when a late signal arrives.
                signal.signal(number, former or (signal.SIG_IGN if number in QUIET else signal.SIG_DFL))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)
        with contextlib.suppress(ValueError, OSError):
            now = signal.set_wakeup_fd(self._chained)
            if now not in {self._writer.fileno(), self._chained}:
                signal.set_wakeup_fd(now, warn_on_full_buffer=False)  # somebody else's by now
        _listeners.discard(self)

    def open_here(self) -> None:
        """In the thread that calls `wait`: signals of the process arrive here."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers & QUIET)

    def wake(self) -> None:
        """Make `wait` return."""
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def wait(self, timeout_s: float) -> set[signal.Signals]:
        """The signals that came since the last call, after at most `timeout_s`."""
        import select

        select.select([self._reader], [], [], max(0.0, timeout_s))
        came: set[signal.Signals] = set()
        with contextlib.suppress(BlockingIOError):
            while chunk := self._reader.recv(4096):
                if self._chained >= 0:
                    with contextlib.suppress(OSError):
                        os.write(self._chained, bytes(byte for byte in chunk if 0 < byte < 128))  # noqa: PLR2004
                for byte in chunk:
                    if 0 < byte < 128:  # noqa: PLR2004
                        self._by_wakeup.add(byte)
                    if byte & 127 in self.numbers:
                        came.add(signal.Signals(byte & 127))
        if signal.SIGTERM in came:
            struct.pack_into("d", self._terminated, 0, time.monotonic())
        return came

    def end_by(self, number: signal.Signals) -> None:
        """Let the process end by this signal as it would have without us: its own handler, else the default action."""
        former = self._former.get(number)
        if former is not None:
            self._former[number] = None
            self._pass_on = (number, former)
            os.kill(self._owner, number)
            return
        import ctypes

        # The main thread may be in a long C call: only the C library can change the action from here.
        with contextlib.suppress(Exception):
            ctypes.CDLL(None).signal(int(number), 0)
            os.kill(self._owner, number)
            if self._owner != 1:  # a container's first process has no default actions
                time.sleep(1)
        os._exit(128 + number)

    _pass_on: tuple[int, Callable[[int, Any], object]] | None = None

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner:
            self._in_child(number)
            return
        if self._pass_on is not None and self._pass_on[0] == number:
            _, former = self._pass_on
            self._pass_on = None
            signal.signal(number, former)
            former(number, frame)
            return
        if number in self._by_wakeup:
            self._by_wakeup.discard(number)
        else:  # another library took the wake-up descriptor over
            with contextlib.suppress(OSError):
                self._writer.send(bytes([number | 128]))
        former = self._former.get(number)
        if former is not None and number != signal.SIGTERM:  # TERM's own handler ends the program: after the save
            former(number, frame)

    def _in_child(self, number: int) -> None:
        """A forked helper like a DataLoader worker outlives what was sent to the whole job; its parent needs it."""
        if number != signal.SIGTERM:
            return
        time.sleep(0.05)
        (at_s,) = struct.unpack_from("d", self._terminated, 0)
        if time.monotonic() - at_s > _JOB_WIDE_S:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)


def shield_child() -> None:
    """In a forked helper whose library has put its own handler for TERM in place of ours: ours again."""
    for listener in list(_listeners):
        if signal.SIGTERM in listener.numbers and listener._owner == os.getppid():  # noqa: SLF001
            signal.signal(signal.SIGTERM, listener._handle)  # noqa: SLF001


def _after_fork() -> None:
    """The wake-up descriptor is the parent's."""
    for listener in list(_listeners):
        if listener._installed:  # noqa: SLF001
            with contextlib.suppress(ValueError, OSError):
                signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_after_fork)
