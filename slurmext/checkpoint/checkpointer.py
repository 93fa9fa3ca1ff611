"""The Checkpointer: what a training script uses."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from slurmext.checkpoint.aside import Aside
from slurmext.checkpoint.board import Board
from slurmext.checkpoint.confirm import announce, confirm
from slurmext.checkpoint.cost import Costs
from slurmext.checkpoint.directory import default_directory, size_of
from slurmext.checkpoint.engine import Engine, Ticket
from slurmext.checkpoint.engine.folder import counted, saved_in
from slurmext.checkpoint.engine.identity import described
from slurmext.checkpoint.engine.tree import put
from slurmext.checkpoint.errors import CheckpointError
from slurmext.checkpoint.everywhere import marked, plain
from slurmext.checkpoint.gate import Gate
from slurmext.checkpoint.interval import Interval
from slurmext.checkpoint.memory import MemoryPlan, Progress, wanted_every_s
from slurmext.checkpoint.pilot import Pilot
from slurmext.checkpoint.ranks import Place, here
from slurmext.checkpoint.reasons import DEADLINE, MEMORY, URGENT, Reason
from slurmext.checkpoint.requeue import saved_for_limit
from slurmext.checkpoint.signals import Listener, wanted_signal
from slurmext.checkpoint.tiers import Tiers

AUTO = "auto"
_MEET_S = 300.0
_AUTO_S = -1.0


def _seconds(every_s: float | str | None) -> float | None:
    if every_s is None:
        return None
    if every_s == AUTO:
        return _AUTO_S
    if isinstance(every_s, str) or not 0 <= every_s < float("inf"):
        raise CheckpointError(f"every_s={every_s!r}: give seconds, 'auto', or None for saves on signals only")
    return float(every_s)


class Checkpointer:
    """Saves and restores `state`: a dict of names to arrays (NumPy, PyTorch, JAX), generators and plain values.

    `dir`: where (see `default_directory`); shared by all ranks. `every_s`: seconds between saves that nobody asked for,
    `auto` for what the measured cost and the site's failures suggest, None for none. `keep`: checkpoints kept (at
    least 2). `signals`: take USR1, USR2, the signal of `--ckpt` and TERM.
    `replicated`: every rank holds the same arrays, and they are written once; else each rank's are its own, and what
    is a part of something larger is given as `Sharded`. `rank`, `world`: else as torch.distributed, the launcher or
    srun says. `wait`: `save` returns when the checkpoint is on disk, else when the snapshot is taken.
    `identity`: of code and configuration, a word or a dict; a checkpoint of another one is not restored, and what
    differs first is named. `memory_every_s`: seconds between saves in memory (the node's agent's and another node's),
    made between those on disk, `auto` for what they cost; else as SLURMEXT_CKPT_MEMORY_EVERY_S says, else none.

    All ranks call `due` with the same steps. Raises CheckpointError with what to do about it.
    """

    def __init__(
        self,
        state: MutableMapping[str, Any],
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the word users expect
        *,
        every_s: float | str | None = AUTO,
        keep: int = 2,
        signals: bool = True,
        replicated: bool = False,
        rank: int | None = None,
        world: int | None = None,
        wait: bool = True,
        identity: str | Mapping[str, Any] | None = None,
        memory_every_s: float | str | None = None,
    ) -> None:
        self.state = state
        self.directory = Path(dir if dir is not None else default_directory()).absolute()
        self.interval = Interval.of_job()
        """How often `auto` saves, and why."""
        self._every_s = _seconds(every_s)
        self.place: Place = here(rank, world)
        self._replicated = replicated and self.place.world > 1
        # Who has no state to save here saves by means of its own.
        in_memory_s = wanted_every_s(memory_every_s) if state or memory_every_s is not None else None
        self.tiers = Tiers(rank=self.place.rank if self.place.world > 1 else None, newest=in_memory_s is not None)
        """Copies of the checkpoints in the memory of this node and another."""
        self.memory = MemoryPlan(in_memory_s, self.tiers, self.interval, leads=self.place.leads)
        """Saves in memory between those on disk."""
        self._cost: dict[str, float] = {}
        self._wait = wait
        self._keep = max(keep, 2)
        self._identity = described(identity)
        self._engine: Engine | None = None
        self._owed = False
        self._last: tuple[Path, int] | None = None
        self._taken_step: int | None = None
        self._newest = 0
        self._noting = threading.Lock()
        self.gate = Gate()
        self.capture: Callable[[], Mapping[str, Any]] = lambda: self.state
        """The tree to save, when the state is quiet."""
        self.costs = Costs(self.interval)
        """What a save costs."""
        self.around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        """What the checkpoint thread takes a snapshot in."""
        self.saved_step: int | None = None
        """The newest step on disk, as far as this process knows."""
        wanted = wanted_signal()
        self._listener = Listener({signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, wanted} if signals else ())
        if signals:
            self._listener.install()
        self._pilot: Pilot | None = None
        self._closed = False
        self._signals = signals
        atexit.register(self.close)
        self.begin()

    def install(self) -> None:
        """Take the checkpoint signal from now on; the constructor does this already."""
        self._listener.install()

    def every_s(self) -> float | None:
        """Seconds between saves that nobody asked for, as of now."""
        return self.interval.every_s if self._every_s == _AUTO_S else self._every_s

    def due(self, step: int | None = None) -> bool:
        """Whether to save now: told to, or `every_s` passed; the same answer in all ranks. Ask after each step."""
        gate = self.gate
        if step is None:
            step = gate.step + 1
        told = self._owed and step == gate.step
        gate.step = step
        if self._owed and not told:
            self._settled()  # told to save and did not
        if step < gate.stop_at:
            return told
        return self._meet(step)

    def save(self, step: int, *, wait: bool | None = None) -> Path | None:
        """Save the state after `step` finished steps, in all ranks. Returns where, once it is on disk.

        With `wait=False` it returns None when the snapshot is taken; the state may change from then on. So it does
        when `due` asked for a save in memory. A save that `due` asked for and that cannot be written is said to be so
        in one line and returns None: training goes on, with what was saved before. Others, and those with `wait=True`,
        raise CheckpointError.
        """
        if self._owed and self._pilot is not None and self._pilot.reason == MEMORY:
            self._save_to_memory(step)
            return None
        waits, step = self._wait if wait is None else wait, counted(step)
        spared = self._owed and wait is None
        self.costs.began(step)
        try:
            ticket, reason = self._take(step)
        except BaseException:
            self.costs.ended(step, good=False)
            self._settled(failed=True)
            raise
        if not waits:
            self.costs.taken(step)
            self._settled(lambda: self._finish(ticket, reason))
            return None
        path: Path | None = None
        try:
            path = self._finish(ticket, reason, waited=True)
        except CheckpointError:
            if not spared:
                raise
        finally:
            self._settled(failed=path is None)
        return path

    def confirm(self, step: int, path: str | os.PathLike[str]) -> None:
        """In place of `save`, in all ranks: the program has saved `step` by its own means, and `path` is on disk."""
        reason = self._pilot.reason if self._pilot is not None and self._owed else None
        self.saved_step, self._last = counted(step), (Path(path).absolute(), size_of(Path(path)))
        self._confirm(reason)
        self._settled()

    def restore(self) -> int | None:
        """Load the newest good checkpoint into the state; returns its step, None when there is none.

        Arrays are filled in place. A damaged checkpoint is named on stderr and passed over, whatever is wrong with it.
        """
        found = self.load(self._all(self.state))
        if found is None:
            return None
        step, value = found
        put(self.state, plain(value) if self._replicated else value)
        return step

    def load(self, template: Any) -> tuple[int, Any] | None:
        """For adapters: (step, tree) of the newest good checkpoint, with the arrays of `template` filled in place."""
        found = self._hold(self.tiers.places()).restore(template)
        if found is not None:
            self.gate.step = self.saved_step = found[0]
            only = self.tiers.restored(self.directory, found[0], leads=self.place.leads)
            if only and self.memory.on:
                self.ask()  # no single node has all of it to bring to the directory
        return found

    def has_saved(self) -> bool:
        """Whether there is something to restore, good or not. Raises CheckpointError for an unfit directory."""
        self._hold(self.tiers.places()).open()
        return bool(saved_in(self.directory)) or self.tiers.any()

    def ask(self) -> None:
        """Have all ranks save at their next step, as if a signal had come."""
        self.begin().ask()

    @contextlib.contextmanager
    def quiet(self, step: int) -> Iterator[None]:
        """`step` steps are finished and the state does not change within: a signal is answered at once.

        For what takes long between steps: evaluation, waiting for data, compiling.
        """
        self.begin()
        self.gate.boundary(step)
        try:
            yield
        finally:
            self.gate.enter()

    def close(self) -> None:
        """Finish what is under way, give up the directory and the signals."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._pilot is not None:
            self._pilot.close()
        self._listener.remove()
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self.tiers.close()

    def __enter__(self) -> Checkpointer:  # noqa: PYI034  Self would need typing at run time
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> Pilot:
        """The checkpoint thread, started when it is not there yet."""
        if self._pilot is None:
            place, board = self.place, None
            if place.world > 1:
                engine = self._hold(self.tiers.places())
                engine.open()  # the ranks meet here
                board = Board(self.directory, run=engine.session_id, rank=place.rank)
                if place.leads:
                    board.remove_others()
            self._pilot = Pilot(
                self.gate, place, board, self._listener, take=self._take_quiet, every_s=self.every_s,
                announce=self._announce,
            )  # fmt: skip
            self._pilot.superseded = self._superseded
            self._pilot.schedule.memory_every_s = self._memory_every_s
            self._pilot.aside = Aside() if self.memory.on else None
            self._pilot.start()
        return self._pilot

    def _superseded(self) -> bool:
        return self._engine is not None and self._engine.superseded()

    def _announce(self) -> None:
        if self._signals:
            announce(wanted_signal().name.removeprefix("SIG"), leads=self.place.leads)

    def _meet(self, step: int) -> bool:
        self._owed = self.gate.meet(step, _MEET_S)
        return self._owed

    def _hold(self, tiers: Sequence[Path] = ()) -> Engine:
        if self._engine is None:
            self._engine = Engine(
                self.directory,
                rank=self.place.rank,
                world=self.place.world,
                keep=self._keep,
                tiers=self.tiers.places() if self.memory.on else tiers,
                identity=self._identity,
                keeper=self.memory.keeper,
            )
            if self._pilot is not None:
                self._pilot.wake()
        return self._engine

    def _all(self, state: Any) -> Any:
        return marked(state, self.place.world) if self._replicated else state

    def _take(self, step: int) -> tuple[Ticket, Reason | None]:
        reason = self._pilot.reason if self._pilot is not None and self._owed else None
        ticket = self._hold().save(step, self._all(self.capture()))
        self._show(ticket)
        return ticket, reason

    def _take_quiet(self, step: int, reason: Reason) -> Callable[[], object]:
        """In the checkpoint thread, while the state is quiet."""
        if reason == MEMORY:
            with self.around():
                self._save_to_memory(step)
            return lambda: None
        if self._pilot is not None and step == self._taken_step:
            self._pilot.join_aside()  # that save is under way: all ranks wait for it, or make another, alike
        if step == self.saved_step and self._last is not None:
            return lambda: self._confirm(reason)  # nothing was done since
        self.costs.began(step)
        try:
            with self.around():
                ticket = self._hold().save(step, self._all(self.capture()))
        except BaseException:
            self.costs.ended(step, good=False)
            raise
        self._taken_step = step
        self._show(ticket)
        self.costs.taken(step)
        return lambda: self._finish(ticket, reason)

    def _finish(self, ticket: Ticket, reason: Reason | None, *, waited: bool = False) -> Path:
        """See a save through. `waited`: training stood still until now."""
        good = False
        try:
            path = ticket.result()
            good = True
        finally:
            if waited:
                self.costs.taken(ticket.step)
            self.costs.ended(ticket.step if waited else self.gate.step, good=good)
        with self._noting:
            if ticket.serial < self._newest:
                return path  # a later one was on disk as soon
            self._newest = ticket.serial
            self.saved_step, self._last = ticket.step, (path, ticket.size_bytes)
            self._cost = {"stall_s": ticket.snapshot_s, "write_s": ticket.write_s}
            self.interval.at_most(ticket.waited_s + ticket.snapshot_s + ticket.write_s)
        if self._confirm(reason):
            self.tiers.offer(path)
        return path

    def _memory_every_s(self) -> float | None:
        """Seconds from a save to the next one in memory; None while there is to be none."""
        return self.memory.every_s() if self._engine is not None and self._engine.memory_free else None

    def _save_to_memory(self, step: int) -> None:
        pilot = self.begin()
        try:
            self.memory.save(
                step, lambda: self._hold().save_to_memory(step, self._all(self.capture())), lambda: self.gate.step,
                pilot.wake,
            )  # fmt: skip
        finally:
            if self._owed:
                self._owed = False
                pilot.saved(in_memory=True)

    def _show(self, ticket: Ticket) -> None:
        if self.memory.on and self.place.leads and self.tiers.there:
            Progress(ticket, self.tiers.tell).start()

    def _confirm(self, reason: Reason | None) -> bool:
        """False when there is no agent to take note."""
        if self.place.leads and self._last is not None and self.saved_step is not None:
            path, size_bytes = self._last
            cost = {**self._cost, **self.interval.told(), **self.memory.told()} if self._cost else None
            urgent = reason in URGENT
            told = confirm(step=self.saved_step, path=str(path), size_bytes=size_bytes, on_signal=urgent, cost=cost)
            if told and urgent and self._pilot is not None:
                self._pilot.confirmed_s = time.monotonic()
            if reason == DEADLINE:
                saved_for_limit(known=told)
            return told
        return True

    def _settled(self, finish: Callable[[], object] | None = None, *, failed: bool = False) -> None:
        self._owed = False
        if self._pilot is not None:
            self._pilot.saved(finish, failed=failed)
