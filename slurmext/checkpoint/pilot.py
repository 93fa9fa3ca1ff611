"""The checkpoint thread: hears signals, keeps time, agrees with the other ranks on a step, sees the save through."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from slurmext.checkpoint.agreement import decision
from slurmext.checkpoint.aside import Aside
from slurmext.checkpoint.board import ABANDONED, GONE, Board
from slurmext.checkpoint.gate import Gate
from slurmext.checkpoint.leaving import TERM_AFTER_SAVE_S, until_free
from slurmext.checkpoint.ranks import Place
from slurmext.checkpoint.reasons import MEMORY, REQUEST, SIGNAL, TERM, URGENT, Reason
from slurmext.checkpoint.schedule import Schedule
from slurmext.checkpoint.signals import Listener

_AGREE_S = 60.0
"""A rank that says nothing for so long is stuck or dead; the others go on."""
_PATIENCE_PART = 0.25
"""Of the grace: how long a rank may go on to finish the step it is in, rather than save the last finished one."""
_TERM_WAIT_S = 10.0
_ANNOUNCE_EVERY_S = 60.0

Take = Callable[[int, Reason], Callable[[], object]]
"""Takes the snapshot of a step; what it returns waits until that is on disk and confirmed. Raises CheckpointError."""
_pilots: weakref.WeakSet[Pilot] = weakref.WeakSet()


class Pilot:
    """One thread. `take` saves when the state is quiet; a program that polls the gate saves by itself: `saved`.

    `board` None: this rank is alone. `every_s`: between saves that nobody asked for, None for none; rank 0 keeps time.
    `announce` has somebody send the checkpoint signal to this process; it is called now and then.
    """

    def __init__(
        self, gate: Gate, place: Place, board: Board | None, listener: Listener, *, take: Take,
        every_s: Callable[[], float | None], watch_deadline: bool = True, announce: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        self._gate, self._place, self._board, self._listener, self._take = gate, place, board, listener, take
        self._announce = announce
        self._announced_s = -_ANNOUNCE_EVERY_S
        self.schedule = Schedule(every_s, leads=place.leads, watch_deadline=watch_deadline)
        """When it saves unasked."""
        self._grace_s = self.schedule.grace_s
        self._number = 0
        self._reason: Reason | None = None
        self._heard: set[signal.Signals] = set()
        self.aside: Aside | None = None
        """Where saves that are not urgent are seen through; None: in this thread."""
        self.patience_s: Callable[[float], float] = lambda _most_s: 0.0
        """How long to let the program finish the step it is in, given the most it may take."""
        self.superseded: Callable[[], bool] = lambda: False
        """Whether the next run of the job waits for this one to be gone; asked when it is to leave."""
        self.confirmed_s = -TERM_AFTER_SAVE_S
        """When the agent last took note of a checkpoint that it had been waited for (time.monotonic)."""
        self.reason: Reason = REQUEST
        """Why the save that is under way was asked for."""
        self._finished = threading.Event()
        self._failed = False
        self._unfinished: deque[Callable[[], object]] = deque()
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="slurmext-ckpt", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        if self._board is not None:
            decided, requested = self._board.decided()[0], self._board.requested()[0]
            self._number = min(decided, requested)
        _pilots.add(self)
        self._thread.start()

    def ask(self) -> None:
        """Save at the next step."""
        if self._reason in {None, MEMORY}:
            self._reason = REQUEST
        self._listener.wake()

    def join_aside(self) -> None:
        """Wait for a save that is seen through beside this thread."""
        if self.aside is not None:
            self.aside.join()

    def _is_aside(self) -> bool:
        return self.aside is not None and self.aside.busy

    def wake(self) -> None:
        """Look at the time again: the schedule may have changed."""
        self._listener.wake()

    def saved(
        self, finish: Callable[[], object] | None = None, *, in_memory: bool = False, failed: bool = False
    ) -> None:
        """The training thread has saved by itself, or has `failed` to; `finish` waits until that is on disk and
        confirms it.
        """
        self.schedule.taken(in_memory=in_memory)
        self._failed = failed
        if finish is not None:
            self._unfinished.append(finish)
        self._finished.set()
        self._listener.wake()

    def close(self, timeout_s: float = 300.0) -> None:
        """Finish what is under way and stop. The other ranks are told not to wait for this one."""
        if self._closing.is_set() or not self._thread.is_alive():
            return
        if self._gate.quiet and self.reason in URGENT:
            self._idle.wait(self._grace_s)  # the program fails or ends in the midst of its last save
        self._closing.set()
        self._gate.thaw()
        self._listener.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        if self.aside is not None:
            self.aside.join(timeout_s)
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.promise(GONE, 0)

    def settle(self, timeout_s: float) -> bool:
        """Wait for a save that is under way."""
        return self._idle.wait(timeout_s)

    # the thread

    def _run(self) -> None:
        self._listener.open_here()
        self.schedule.watch(self._listener.wake)
        while not self._closing.is_set():
            try:
                self._turn(self._pause_s())
            except OSError as error:  # the board's file system
                say(f"no checkpoint this time: {error}")
                time.sleep(1)
            finally:
                self._idle.set()
        self._finish_all()  # the program's last save may have come just before its end

    def _pause_s(self) -> float:
        pause_s = self.schedule.pause_s(busy=self._is_aside())
        if self._board is not None:
            pause_s = min(pause_s, 5.0, max(0.25, self._place.world / 500))
        if self._reason:
            pause_s = min(pause_s, self.schedule.too_soon_s(self._reason))
        return max(0.0, pause_s)

    def _listen(self, timeout_s: float) -> None:
        came = self._listener.wait(timeout_s)
        self._heard |= came
        if came:
            self._reason = TERM if signal.SIGTERM in self._heard else SIGNAL

    def _turn(self, pause_s: float) -> None:
        if time.monotonic() - self._announced_s >= _ANNOUNCE_EVERY_S:
            self._announced_s = time.monotonic()
            # An agent that hangs must not keep this thread from hearing.
            threading.Thread(target=self._announce, name="slurmext-announce", daemon=True).start()
        self._listen(pause_s)
        if not self._is_aside():
            self._finish_all()
        if self._reason is None:
            self._reason = self.schedule.due(busy=self._is_aside())
        pending = False
        if self._board is not None:
            number, reason = self._board.requested()
            if number > self._number:
                pending = True
                self._reason = self._reason or reason or REQUEST
        if self._reason is None or self._closing.is_set():
            return
        if not pending and self.schedule.too_soon_s(self._reason):
            if self._reason == MEMORY:
                self._reason = None  # the next one then
                self.schedule.taken(in_memory=True)
            return
        if self._reason == TERM and self.schedule.answered():
            self._leave()  # saved a moment ago for the same end
            return
        self._idle.clear()
        self._round(self._reason, pending=pending)

    def _round(self, reason: Reason, *, pending: bool) -> None:
        """One save: promise, decide, reach, save."""
        began_s = time.monotonic()
        if self._board is not None:
            if pending:
                self._number = self._board.requested()[0]
            else:
                self._number += 1
                self._board.request(self._number, reason)
        self.reason = reason
        step: int | None = None
        try:
            step = self._agree(reason)
            leaves = reason == TERM or signal.SIGTERM in self._heard
            if step is not None:
                if self.reason != MEMORY:
                    self._forget()  # what came until here is answered by this save
                self._save(step, self.reason, began_s)
        except Exception as error:  # noqa: BLE001 - training goes on without a checkpoint rather than not at all
            if self.reason != MEMORY:
                self.schedule.failed(self.reason, began_s)
            _say_why("no checkpoint this time", error)
            leaves = reason == TERM
        finally:
            self._gate.thaw()
        if self.reason == MEMORY:
            # A signal that came meanwhile is still to be answered, by a save in the directory.
            self.schedule.taken(in_memory=True)
            self._reason = None if self._reason == MEMORY else self._reason
        elif leaves or signal.SIGTERM in self._heard:
            self._leave()
        elif step is None:
            self._forget()

    def _forget(self) -> None:
        self._reason = None
        self._heard.clear()

    def _agree(self, reason: Reason) -> int | None:
        """The step that all ranks save at, with this one held there; None when there is no agreement."""
        began_s = time.monotonic()
        patience_s = self.patience_s(self._grace_s * _PATIENCE_PART) if reason in URGENT else 0.0
        target = self._gate.freeze(patience_s, alone=self._board is None)
        if self._board is not None:
            self._board.promise(self._number, target, reason)
            decision = self._decision()
            if decision is None:
                return None
            target = decision
        elif reason == MEMORY and self._heard:
            self.reason = self._reason or SIGNAL
        in_job = "SLURM_JOB_ID" in os.environ
        while (step := self._gate.reach(target, 0.25)) is None:
            self._listen(0)
            terminated = signal.SIGTERM in self._heard or reason == TERM
            limit_s = (self._grace_s if in_job else _TERM_WAIT_S) if terminated else float("inf")
            if self._closing.is_set() or time.monotonic() - began_s > limit_s:
                return None
        return step

    def _decision(self) -> int | None:
        if self._board is None:
            return None
        target, self.reason = decision(
            self._board, self._number, self.reason, leads=self._place.leads, world=self._place.world, until=self._until
        )
        if target == ABANDONED:
            if self._place.leads and self.reason in URGENT:
                say("the ranks did not agree on a step to save at: one of them has ended or does not answer")
            return None
        return target

    def _until(self, condition: Callable[[], bool]) -> bool:
        """Poll the board: often at first, less so later."""
        pause_s, end_s = 0.001, time.monotonic() + max(_AGREE_S, self._grace_s)
        while not condition():
            if time.monotonic() > end_s or self._closing.is_set():
                return False
            self._listen(pause_s)
            pause_s = min(pause_s * 1.3, 0.05)
        return True

    def _save(self, step: int, reason: Reason, began_s: float) -> None:
        self._finished.clear()
        self._failed = False
        if self._gate.hand_over():
            while not self._finished.wait(0.25) and not self._closing.is_set():
                self._listen(0)
            failed, finish = self._failed, self._finish_all
        else:
            taken, failed = self._take(step, reason), False
            self._gate.thaw()

            def finish() -> bool:
                return _finished(taken)

        def see_through() -> None:
            good = finish() and not failed
            if good and reason != MEMORY:
                self.schedule.done(reason, began_s)
            elif reason != MEMORY:
                self.schedule.failed(reason, began_s)
            self._listener.wake()

        if self.aside is None or reason in URGENT or reason == MEMORY or self._is_aside():
            see_through()
        else:  # nobody waits for it: this thread goes on to hear
            self.schedule.taken()
            self.aside.run(see_through)

    def _finish_all(self) -> bool:
        """See through what the training thread saved; whether all of that is on disk."""
        self.join_aside()
        good = True
        while self._unfinished:
            good = _finished(self._unfinished.popleft()) and good
        return good

    def _leave(self) -> None:
        """After a TERM: end as the program would have."""
        until_free(
            leads=self._place.leads, board=self._board, superseded=self.superseded,
            expected=lambda: time.monotonic() - self.confirmed_s < TERM_AFTER_SAVE_S,
        )  # fmt: skip
        if self._board is not None and self._place.leads:
            self._board.decide(GONE, ABANDONED)
        self._forget()
        self._listener.end_by(signal.SIGTERM)


def say(text: str) -> None:
    """A line for the job's output."""
    sys.stderr.write(f"slurmext.checkpoint: {text}\n")


def _say_why(what: str, error: Exception) -> None:
    if not getattr(error, "said", False):
        say(f"{what}: {error}")


def _finished(finish: Callable[[], object]) -> bool:
    """Whether a save is on disk, after waiting for that; says why it is not."""
    try:
        finish()
    except Exception as error:  # noqa: BLE001 - training goes on without a checkpoint rather than not at all
        _say_why("a checkpoint is lost", error)
        return False
    return True


def _after_fork() -> None:
    """A forked helper has no checkpoint thread: nothing there may wait for it."""
    for pilot in list(_pilots):
        Gate.__init__(pilot._gate)  # noqa: SLF001
        pilot._closing = threading.Event()  # noqa: SLF001
        pilot._closing.set()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
