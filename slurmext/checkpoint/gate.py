"""Where the training thread and the checkpoint thread meet: which step is finished, and who may touch the state now.

The state is either *quiet* (so many steps are finished, nothing changes it) or being changed. The training thread says
which with `boundary` and `enter`; a hold keeps it from entering the next step while a snapshot is taken. A program that
only asks "is it time?" once a step uses `pass_by` and `meet`: its state is quiet while it is in `meet`.
"""

from __future__ import annotations

import threading

NEVER = 1 << 62
ANY = -NEVER


class Gate:
    """`step`: finished steps. `stop_at`: the training thread does not pass this step before it is told to."""

    def __init__(self, step: int = 0, *, quiet: bool = False) -> None:
        self.step = step
        self.stop_at = NEVER
        self.quiet = quiet
        self._held = False
        self._meeting = False
        self._here = False
        self._changed = threading.Condition()

    # the training thread

    def enter(self) -> None:
        """The state is changed from here on. Waits while it is held."""
        with self._changed:
            while self._held:
                self._changed.wait()
            self.quiet = False

    def boundary(self, step: int) -> None:
        """`step` steps are finished and nothing changes the state until `enter`."""
        with self._changed:
            self.step = step
            self.quiet = True
            if step >= self.stop_at:
                self._held = True
            self._changed.notify_all()

    def pass_by(self, step: int) -> bool:
        """A boundary and the next step at once. True at or past `stop_at`: then `meet` says what to do."""
        self.step = step  # written before `stop_at` is read: `freeze` writes and reads the other way round
        return step >= self.stop_at

    def meet(self, step: int, timeout_s: float) -> bool:
        """At `stop_at`: wait until the checkpoint thread has decided. True when the save is to be here."""
        with self._changed:
            self.step, self._held, self._meeting, self._here = step, True, True, False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._held, timeout_s)
            self._held = self._meeting = False
            return self._here

    # the checkpoint thread

    def freeze(self, patience_s: float, *, alone: bool) -> int:
        """Hold the training thread at its next boundary, or after `patience_s` where it is when the state is quiet.

        Returns the step that it does not go past; when it is `alone`, any step will do.
        """
        with self._changed:
            before = self.step
            if patience_s > 0:
                self._changed.wait_for(lambda: self.step > before, patience_s)
            if self.quiet:
                self._held, self.stop_at = True, self.step
                return self.step
            if alone:
                self.stop_at = ANY
                return ANY
            while True:
                self.stop_at = self.step + 1
                if self.step < self.stop_at:
                    return self.stop_at

    def reach(self, target: int, timeout_s: float) -> int | None:
        """Let it go on to `target` and hold it there. Returns its step, None when it does not get there in time."""
        with self._changed:
            self.stop_at = target
            if self.step < target and self._held:
                self._release()
            there = self._changed.wait_for(lambda: self._held and self.step >= target, timeout_s)
            return self.step if there else None

    def hand_over(self) -> bool:
        """Let the training thread, if it waits in `meet`, save by itself. False when the state is quiet otherwise."""
        with self._changed:
            if not self._meeting:
                return False
            self._here = True
            self.stop_at = NEVER
            self._release()
            return True

    def thaw(self) -> None:
        """Nothing holds the training thread any more."""
        with self._changed:
            self.stop_at = NEVER
            self._release()

    def _release(self) -> None:
        self._held = False
        self._changed.notify_all()
