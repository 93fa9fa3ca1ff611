"""Save and restore the state of one rank, together with the others, in one directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine import folder, manifest, reader, retention, snapshot, writer
from slurmext.checkpoint.engine.buffers import BufferPool
from slurmext.checkpoint.engine.crew import Crew, processors
from slurmext.checkpoint.engine.digest import best
from slurmext.checkpoint.engine.errors import CheckpointError, MismatchError, write_error
from slurmext.checkpoint.engine.files import write_small
from slurmext.checkpoint.engine.history import History
from slurmext.checkpoint.engine.lock import DirectoryLock
from slurmext.checkpoint.engine.memory import Keeper, MemorySaves
from slurmext.checkpoint.engine.restore import attempt, first_problem, places
from slurmext.checkpoint.engine.session import PATIENCE_S, Alone, Session
from slurmext.checkpoint.engine.ticket import Ticket

WRITERS = 4
"""Threads that write or read: enough to keep a disk or a client of a parallel file system busy."""
COPIERS = 8
LONGEST_FAREWELL_S = 20.0


class Engine:
    """Checkpoints of one job in `directory`, which all its ranks share.

    `rank` of `world` processes: each has an Engine and calls the same methods in the same order with the same steps; no
    collectives are needed. `keep`: checkpoints kept (at least 2), one of the older ones always verified. `copies`: how
    many of the kept checkpoints have bytes of their own for what did not change between them; the others link it; with
    2 no single damaged file takes two neighbouring checkpoints along. `tiers`: directories with copies of checkpoints
    (in memory, on a local disk), fastest first; a checkpoint is read from the first that has it whole. `identity`: of
    code and configuration; a checkpoint with another is refused. `key`: of the job, so that a second one on the same
    directory is noticed. `keeper`: keeps saves in memory (`save_to_memory`), and has what other nodes' memory holds.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        rank: int = 0,
        world: int = 1,
        keep: int = 2,
        copies: int = 2,
        tiers: Sequence[str | os.PathLike[str]] = (),
        identity: str | None = None,
        key: str | None = None,
        threads: int | None = None,
        patience_s: float = PATIENCE_S,
        keeper: Keeper | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.rank, self.world = rank, world
        self.keep = max(keep, 2)
        self._where = (*(Path(tier).absolute() for tier in tiers), self.directory)
        self._identity = identity
        self._key = key or _job()
        self._patience_s = patience_s
        self._copiers = Crew(threads or min(processors(), COPIERS))
        self._writers = Crew(WRITERS)
        self._pool = BufferPool(self._copiers)
        self._keeper = keeper
        self._memory: MemorySaves | None = None
        if keeper is not None:
            self._memory = MemorySaves(
                self.directory, keeper, rank=rank, world=world, pool=self._pool, crew=self._copiers, info=self._info
            )
        self._serial = 0
        self._lock: DirectoryLock | None = None
        self._session: Session | Alone | None = None
        self._owner = os.getpid()
        self._last: Ticket | None = None
        self._times: dict[int, int] = {}
        self._restores = 0
        self._bad: set[str] = set()
        self._history = History(self.directory, rank=rank, world=world, keep=self.keep, copies=copies)

    @property
    def peak_snapshots(self) -> int:
        """The most snapshots that were held at a time, at most two."""
        return self._pool.peak

    def prepare(self, state: Any, *, snapshots: int = 2) -> None:
        """Map the memory for snapshots of `state` now and not during the first saves. Raises CheckpointError."""
        self._pool.prepare(snapshot.size_of(state, rank=self.rank, world=self.world), snapshots)

    @property
    def session_id(self) -> str:
        """The name of this run, the same in all its ranks and in no other run; empty before `open`."""
        return self._session.id if self._session is not None else ""

    def open(self) -> None:
        """Take the directory and meet the other ranks; the other methods do this. Raises CheckpointError."""
        if os.getpid() != self._owner:
            raise CheckpointError("a forked process has no part in its parent's checkpoints: make an Engine of its own")
        if self._session is not None:
            return
        if self.rank == 0:
            folder.make_directory(self.directory)
            self._lock = DirectoryLock(self.directory)
            folder.remove_leftovers(self.directory)
        if self.world == 1:
            self._session = Alone()
        else:
            self._session = Session(
                self.directory, rank=self.rank, world=self.world, key=self._key, patience_s=self._patience_s
            )

    def save(self, step: int, state: Any, *, wait: bool = False) -> Ticket:
        """Take a snapshot of the state after `step` finished steps; when this returns training may go on.

        It is written and committed in the background, in the order of the saves; the ticket tells when, and what went
        wrong. With `wait` this returns when it is on disk. Blocks while two snapshots are being written. Raises
        CheckpointError when the state or the directory are not fit.
        """
        step = folder.counted(step)
        self.open()
        if self._memory is not None:
            self._memory.make_way()
        ticket, taken = self._begin(step, state)
        before, self._last = self._last, ticket
        # Before the copy, which it follows. Not a daemon: a program that ends with a save under way ends when it is on
        # disk.
        threading.Thread(target=self._finish, args=(ticket, taken, before), name="slurmext-ckpt").start()
        taken.fill(self._copiers)
        ticket.snapshot_s = taken.taken_s
        if wait:
            ticket.result()
        return ticket

    @property
    def memory_free(self) -> bool:
        """Whether `save_to_memory` would neither wait nor stand in the way of another save."""
        return self._memory is not None and not self._memory.under_way and not self._pool.full

    def save_to_memory(self, step: int, state: Any) -> Ticket:
        """As `save`, but nothing is written: the keeper has it when the ticket is done. All ranks call this alike.

        Fails, in all ranks, when one rank's keeper does not take it, or needs its buffer for a save to the directory.
        """
        assert self._memory is not None  # noqa: S101 - an engine with a keeper
        step = folder.counted(step)
        self.open()
        assert self._session is not None  # noqa: S101 - opened
        ticket, taken = self._begin(step, state)
        self._memory.begin(self._session, ticket, taken)
        taken.fill(self._copiers)
        ticket.snapshot_s = taken.taken_s
        return ticket

    def _begin(self, step: int, state: Any) -> tuple[Ticket, snapshot.Snapshot]:
        started = time.perf_counter()
        taken = snapshot.begin(state, rank=self.rank, world=self.world, pool=self._pool)
        ticket = Ticket(step=step, started_s=started, waited_s=taken.waited_s)
        ticket.nbytes = taken.layout.size
        if self._memory is not None and self.rank == 0:
            # Numbered as they are taken: one to memory may be whole before an earlier one is on disk.
            self._serial = (self._serial or self._next_serial() - 1) + 1
            ticket.serial = self._serial
        return ticket, taken

    def _next_serial(self) -> int:
        return max(folder.next_serial(place) for place in self._where)

    def restore(self, template: Any = None) -> tuple[int, Any] | None:
        """(step, state) of the newest good checkpoint, None when there is none.

        `template`: the program's state; its arrays are filled in place and come back in the result, and the caller
        puts in the rest (`tree.put`). A damaged checkpoint is named on stderr and passed over. Raises MismatchError
        when the newest is another model's, and CheckpointError when all are damaged and the state was overwritten in
        finding out.
        """
        self.open()
        self.wait()
        touched = False
        self._restores += 1
        # Ranks name what they agree on, rather than count: one that missed an exchange is in step again with the next.
        names: list[str] = self._exchange(f"candidates-{self._restores}", None, lambda _: list(places(self._where)))
        for index, name in enumerate(names):
            last = index == len(names) - 1
            vote, found, filled = attempt(
                self._copies(name), template, rank=self.rank, world=self.world, identity=self._identity,
                careful=last and not touched, crew=self._writers,
                gather=self._gather if self._keeper is not None else None,
            )  # fmt: skip
            touched = touched or filled
            outcome = self._exchange(f"restore-{self._restores}-{index}", vote, first_problem)
            if outcome is None:
                return found
            if outcome.get("mismatch"):
                raise MismatchError(outcome["why"])
            if self.rank == 0:
                retention.say(f"{self.directory / name} is damaged and not used: {outcome['why']}")
            self._bad.add(name)
        if touched:
            raise CheckpointError(
                f"no good checkpoint is left in {self.directory} and a damaged one has overwritten part of the state: "
                "start again from a fresh state, with another --ckpt-dir"
            )
        return None

    def superseded(self) -> bool:
        """For a process that is about to end: whether the next run of its job already waits for the directory."""
        return self._lock is not None and self._lock.superseded()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until nothing is being written or verified; False when that took longer."""
        if self._memory is not None and not self._memory.wait(timeout_s):
            return False
        return self._last is None or self._last.settled.wait(timeout_s)

    def close(self) -> None:
        """Finish what is being written and give up the directory."""
        if os.getpid() != self._owner:
            return
        if self._memory is not None:
            self._memory.wait(LONGEST_FAREWELL_S)  # not as long as others are waited for: it may have been the last one
        if self._last is not None:
            self._last.settled.wait()
        self._pool.close()
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Engine:  # noqa: PYI034  Self would need typing at run time
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _copies(self, name: str) -> list[folder.Saved]:
        """The folders with a checkpoint, fastest first."""
        found = places(self._where).get(name, [])
        if not found and self._keeper is not None:
            self._keeper.gather(name, [manifest.NAME])
            found = places(self._where).get(name, [])
        return found

    def _gather(self, saved: folder.Saved, missing: list[str]) -> None:
        if self._keeper is not None and saved.path.parent != self.directory:  # what is there is all there is of it
            self._keeper.gather(saved.path.name, missing)

    # Saving, in a thread of its own

    def _finish(self, ticket: Ticket, taken: snapshot.Snapshot, before: Ticket | None) -> None:
        try:
            if before is not None:
                before.settled.wait()
            number = self._times[ticket.step] = self._times.get(ticket.step, 0) + 1
            verify = self._write(ticket, taken, f"{ticket.step}-{number}")
            ticket.set_done()
            self._verify(verify, f"{ticket.step}-{number}", ticket)
        except Exception as error:  # noqa: BLE001 - the ticket's holder gets it
            if ticket.done():
                retention.say(f"after step {ticket.step} was saved: {error}")
            else:
                retention.say(f"step {ticket.step} is not saved: {error}")
                if isinstance(error, CheckpointError):
                    error.said = True
                ticket.set_done(error)
        finally:
            ticket.settled.set()

    def _write(self, ticket: Ticket, taken: snapshot.Snapshot, name: str) -> list[str]:
        """Write and commit; returns the names of checkpoints to verify. `name`: of this save, the same in all ranks."""
        assert self._session is not None  # noqa: S101 - save() opened it
        draft = self.directory / f".new-{self._session.id}-{name}"
        written: writer.Written | None = None
        began_s = time.perf_counter()
        try:
            draft.mkdir(exist_ok=True)
            source = self._history.source(self._bad)
            written = writer.write(
                draft, self.rank, taken, algorithm=best(), crew=self._writers, source=source,
                moving=self._history.moving, progress=ticket.wrote if self._keeper is not None else None,
            )  # fmt: skip
            value = writer.summary(written)
            ticket.new_bytes, ticket.early_bytes = written.new_bytes, written.early_bytes
        except OSError as error:
            value = {"error": str(write_error(self.directory, error, needed_bytes=taken.layout.size))}
        except CheckpointError as error:
            value = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - said, or the other ranks wait for this one
            value = {"error": f"{type(error).__name__}: {error}"}
        finally:
            with contextlib.suppress(Exception):
                taken.ready()  # when writing fails the copy into the buffer may still be under way
            self._pool.give_back(taken.buffer)
        ticket.snapshot_s = taken.taken_s
        ticket.write_s = time.perf_counter() - max(began_s, taken.over_s)
        outcome = self._exchange(f"save-{name}", value, lambda values: self._commit(draft, ticket, values))
        ticket.path = self.directory / outcome["name"]
        ticket.size_bytes = outcome["size_bytes"]
        if written is not None:
            self._history.add(ticket.path, written.part, written.moved)
        return outcome["verify"]

    def _info(self, step: int, serial: int) -> dict[str, Any]:
        return {
            "step": step, "serial": serial, "saved_at_s": time.time(), "world": self.world,
            "job": os.environ.get("SLURM_JOB_ID"), "identity": self._identity, "host": socket.gethostname(),
            "versions": _versions(),
        }  # fmt: skip

    def _commit(self, draft: Path, ticket: Ticket, values: list[Any]) -> dict[str, Any]:
        """In rank 0, when every rank has written: the manifest, the name, what is to be verified."""
        try:
            problems = [f"rank {rank}: {value['error']}" for rank, value in enumerate(values) if "error" in value]
            _refuse(problems, alone=self.world == 1)
            serial = ticket.serial or self._next_serial()
            content = manifest.encode(self._info(ticket.step, serial), [value["part"] for value in values])
            write_small(draft / manifest.NAME, content)
            saved = folder.publish(draft, ticket.step, serial)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError):
                raise write_error(self.directory, error) from error
            raise
        size = len(content) + sum(size for value in values for _, size in value["part"]["packs"])
        verify = [item.path.name for item in retention.to_verify(self.directory, self.keep, self._bad)]
        return {"name": saved.path.name, "size_bytes": size, "verify": verify}

    def _verify(self, names: list[str], name: str, ticket: Ticket) -> None:
        """Read back what must be good before older ones go, and remove those; put off when the next save waits."""
        votes: dict[str, str | None] | None = {}
        urgent = retention.too_many(self.directory, self.keep)
        try:
            for saved in folder.saved_in(self.directory):
                if saved.path.name in names:
                    votes[saved.path.name] = retention.verify(
                        saved, self._writers, share=(self.rank, self.world),
                        enough=lambda: self._last is not ticket and not urgent,
                    )  # fmt: skip
        except reader.Interrupted:
            votes = None
        self._exchange(f"verify-{name}", votes, lambda values: self._settle(names, values))

    def _settle(self, names: list[str], values: list[dict[str, str | None] | None]) -> None:
        told = [value for value in values if value is not None]
        damage = {name: what for name in names for value in told if (what := value.get(name))}
        done = len(told) == len(values)
        good = [
            s for s in folder.saved_in(self.directory) if done and s.path.name in names and s.path.name not in damage
        ]
        retention.settle(self.directory, self.keep, good, damage, self._bad)

    def _exchange(self, name: str, value: Any, decide: Any) -> Any:
        assert self._session is not None  # noqa: S101 - opened by the caller
        return self._session.exchange(name, value, decide)


def _refuse(problems: list[str], *, alone: bool) -> None:
    if problems:
        raise CheckpointError(problems[0].removeprefix("rank 0: ") if alone else problems[0])


def _job() -> str:
    if job := os.environ.get("SLURM_JOB_ID"):
        return f"job {job}"
    return f"run {os.environ.get('TORCHELASTIC_RUN_ID', '-')} of user {os.geteuid()}"


def _versions() -> dict[str, str]:
    import platform
    import sys

    modules = {name: sys.modules.get(name) for name in ("numpy", "torch", "jax")}
    found = {name: str(getattr(module, "__version__", "")) for name, module in modules.items() if module is not None}
    return {"python": platform.python_version(), **found}
