"""Saves in memory between those in the checkpoint directory: kept by the node's agent, and by another node's as well.

The agent reads the snapshot from a pipe that it is handed, so that what it keeps is not this job's memory. What it
cannot keep is said once, in the job's output, and tried again later; saves to the directory go on as without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from slurmext.checkpoint.cost import CountedCost
from slurmext.checkpoint.engine.memory import CAME_FIRST, Handed
from slurmext.checkpoint.engine.ticket import Ticket
from slurmext.checkpoint.errors import CheckpointError
from slurmext.checkpoint.interval import Interval
from slurmext.checkpoint.tiers import STALL_S, TELL_EVERY_S, Tiers

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.1
FIRST_REST_S, LONGEST_REST_S = 60.0, 600.0
VARIABLE = "SLURMEXT_CKPT_MEMORY_EVERY_S"
AUTO = "auto"
PIPE_BYTES = 1 << 20
"""As much as an unprivileged process may ask for (/proc/sys/fs/pipe-max-size)."""
_OLD = "unknown op"
_SAME = 0.8, 1.25
"""An interval that changed by less is not told of anew."""


def wanted_every_s(given: float | str | None, environment: Mapping[str, str] | None = None) -> float | str | None:
    """Seconds between saves in memory, `auto` or None: as given, else as the environment says.

    Raises CheckpointError.
    """
    text = given
    if given is None:
        text = (os.environ if environment is None else environment).get(VARIABLE) or None
    if text is None or text == AUTO:
        return text
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        name = VARIABLE if given is None else "memory_every_s"
        raise CheckpointError(f"{name}={text}: give seconds like 30, or 'auto'")
    return seconds


class AgentKeeper:
    """Keeps a rank's part of a save. `ask` of `tiers` is how the agent is spoken to."""

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers
        self._last = ""
        self.peer_why: str | None = None
        """Why the save before has no copy on another node; empty when it has, None when that is not known."""

    def keep(self, name: str, handed: Handed, enough: Callable[[], bool]) -> None:
        """See `engine.memory.Keeper`."""
        if name != self._last:
            self._look_after(self._last)
            self._last = name
        reader, writer = os.pipe()
        try:
            with contextlib.suppress(OSError):  # a user has only so much memory for pipes
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            asked = {"op": "ckpt_keep", "name": name, "only": True, "files": [handed.file],
                     "sizes": [len(handed.content)]}  # fmt: skip
            try:
                reply = self._ask(asked, [reader])
            finally:
                os.close(reader)
            if reply.get("busy"):
                raise CheckpointError("the agent is still busy with earlier ones")
            with contextlib.suppress(BrokenPipeError):  # it says why when it is asked
                self._send(handed.content, writer, enough)
        finally:
            os.close(writer)
        self._wait({"op": "ckpt_kept", "name": name, "files": [handed.file]}, enough)

    @staticmethod
    def _send(content: memoryview, writer: int, enough: Callable[[], bool]) -> None:
        """All of it into the pipe, as fast as the agent takes it."""
        os.set_blocking(writer, False)
        poll = select.poll()
        poll.register(writer, select.POLLOUT)
        until_s = time.monotonic() + STALL_S
        while content:
            if poll.poll(1000 * LONGEST_PAUSE_S):
                content = content[os.write(writer, content[:PIPE_BYTES]) :]
                until_s = time.monotonic() + STALL_S
            if enough():
                raise CheckpointError(CAME_FIRST)
            if time.monotonic() > until_s:
                raise CheckpointError(f"the agent has copied nothing for {STALL_S:.0f} s")

    def gather(self, name: str, files: Sequence[str]) -> None:
        """See `engine.memory.Keeper`."""
        self._tiers.gather(name, files)

    def _wait(self, request: dict[str, object], enough: Callable[[], bool]) -> None:
        pause_s, there, until_s = FIRST_PAUSE_S, -1, time.monotonic() + STALL_S
        while not (reply := self._ask(request, [])).get("kept"):
            if why := reply.get("failed"):
                raise CheckpointError(str(why))
            if enough():
                raise CheckpointError(CAME_FIRST)
            if reply.get("there_bytes", 0) > there:
                there, until_s = reply["there_bytes"], time.monotonic() + STALL_S
            if time.monotonic() > until_s:
                raise CheckpointError(f"the agent has copied nothing for {STALL_S:.0f} s")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    def _look_after(self, name: str) -> None:
        """What has become of the last one's copy on another node."""
        if not name:
            return
        reply = self._ask({"op": "ckpt_kept", "name": name, "files": []}, [])
        if "peer" in reply:
            self.peer_why = "" if reply["peer"] else str(reply.get("peer_why") or "no reason was given")

    def _ask(self, request: dict[str, object], descriptors: list[int]) -> dict[str, object]:
        try:
            reply, _ = self._tiers.ask(request, descriptors)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"the agent does not answer ({error})") from error
        if reply.get("ok") is not True:
            error = str(reply.get("error"))
            raise CheckpointError("the agent is older than this library" if error.startswith(_OLD) else error)
        return reply


class MemoryPlan:
    """When the next one is due, what they cost, and what is said about those that fail. Seconds.

    `every_s`: between them, `auto` for what `interval` suggests; None for none.
    """

    def __init__(self, every_s: float | str | None, tiers: Tiers, interval: Interval, *, leads: bool) -> None:
        self.on = every_s is not None
        self.keeper = AgentKeeper(tiers) if self.on else None
        self._every_s, self._tiers, self._interval, self._leads = every_s, tiers, interval, leads
        self._cost = CountedCost()
        self._rest_s = FIRST_REST_S
        self._not_before_s = 0.0
        self._said: set[str] = set()
        self._told_s: float | None = None
        self.kept_step: int | None = None
        """The newest step in memory."""
        if self.on and not tiers.there:
            self._not_before_s = float("inf")
            self._say("none", "no agent of slurmext is here to keep saves in memory: they go to the directory only")

    def every_s(self) -> float | None:
        """Seconds from a save to the next one in memory; None for none now."""
        if not self.on or time.monotonic() < self._not_before_s:
            return None
        return self._interval.memory_every_s if isinstance(self._every_s, str) else self._every_s

    def told(self) -> dict[str, float]:
        """What goes to the site with a confirmation, besides the interval's own (`slurmext ckpt why`)."""
        every_s = self.every_s()
        if every_s is None or not self._interval.memory_costs:
            return {}
        known = self._interval
        return {"memory_every_s": every_s, "memory_cost_s": known.memory_cost_s, "lost_s": known.lost_s}

    def save(
        self, step: int, take: Callable[[], Ticket], now_step: Callable[[], int], done: Callable[[], object]
    ) -> None:
        """Take a snapshot of `step` and see it through in the background; `done` is called when that is over."""
        self._cost.began(step, time.monotonic())
        ticket = take()
        self._cost.taken(step, time.monotonic())
        threading.Thread(target=self._watch, args=(ticket, now_step, done), name="slurmext-kept", daemon=True).start()

    def _watch(self, ticket: Ticket, now_step: Callable[[], int], done: Callable[[], object]) -> None:
        try:
            path = ticket.result()
        except Exception as error:  # noqa: BLE001 - the next save comes anyway
            self._failed(str(error))
        else:
            self._tiers.kept_serial = int(path.name.split("-")[1])
            self._rest_s, self.kept_step = FIRST_REST_S, ticket.step
            self._interval.kept(self._cost.ended(now_step(), time.monotonic()), on_peer=self._on_peer())
            self._tell()
        done()

    def _tell(self) -> None:
        """The site hears how often, before any checkpoint in the directory says so and when it changes."""
        told = self.told()
        every_s = told.get("memory_every_s")
        if not self._leads or every_s is None or (self._told_s and _SAME[0] < every_s / self._told_s < _SAME[1]):
            return
        self._told_s = every_s
        with contextlib.suppress(OSError, ValueError):
            self._tiers.ask({"op": "ckpt_memory", "cost": told}, [])

    def _on_peer(self) -> bool:
        """Whether another node had the one before."""
        why = self.keeper.peer_why if self.keeper is not None else None
        if why:
            self._say("peer", f"saves in memory are on this node only, not on another's as well: {why}")
        return why == ""

    def _failed(self, why: str) -> None:
        if CAME_FIRST in why:
            return
        self._interval.not_kept()
        self._not_before_s = time.monotonic() + self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        self._say("none", f"no saves in memory for now, those to the directory go on: {why}")

    def _say(self, about: str, text: str) -> None:
        if self._leads and about not in self._said:
            self._said.add(about)
            sys.stderr.write(f"slurmext.checkpoint: {text}\n")


class Progress:
    """Tells how far a save is on its way from memory to the directory (`slurmext ckpt show`)."""

    def __init__(self, ticket: Ticket, tell: Callable[[str, int, int], object]) -> None:
        self._ticket, self._tell = ticket, tell

    def start(self) -> None:
        """In the background, until it is on disk."""
        threading.Thread(target=self._run, name="slurmext-progress", daemon=True).start()

    def _run(self) -> None:
        ticket = self._ticket
        name = f"save-{ticket.serial:08d}-step-{ticket.step}"
        while True:
            try:
                path = ticket.result(TELL_EVERY_S)
            except CheckpointError:
                if ticket.done():
                    return
                if ticket.done_bytes:
                    self._tell(name, min(ticket.done_bytes, ticket.nbytes), ticket.nbytes)
            except Exception:  # noqa: BLE001 - said by who waits for it
                return
            else:
                self._tell(path.name, ticket.size_bytes, ticket.size_bytes)
                return
