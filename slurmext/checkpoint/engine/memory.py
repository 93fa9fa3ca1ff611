"""Saves that go to memory only: the node's agent copies the snapshot, nothing is written to the directory.

Every rank hands its snapshot over and waits until the agent has it; then, and only then, the manifest follows: without
one it is no checkpoint. A save to the directory never waits for one to memory, which gives up its buffer instead.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slurmext.checkpoint.engine import manifest, snapshot
from slurmext.checkpoint.engine.buffers import BufferPool
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.digest import best, digester
from slurmext.checkpoint.engine.errors import CheckpointError, write_error
from slurmext.checkpoint.engine.files import read_small
from slurmext.checkpoint.engine.manifest import Block, Part
from slurmext.checkpoint.engine.session import Alone, Session
from slurmext.checkpoint.engine.ticket import Ticket
from slurmext.checkpoint.engine.writer import pieces_of

CHANNEL = "memory"
CAME_FIRST = "a save to the directory came first"
"""Why a save was given up that nothing is wrong with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """Bytes to be kept under the name `file`."""

    file: str
    content: memoryview


class Keeper(Protocol):
    """Who keeps bytes in memory: the node's agent."""

    def keep(self, name: str, handed: Handed, enough: Callable[[], bool]) -> None:
        """Returns when it is kept as a part of the checkpoint `name`. Raises CheckpointError, also when `enough`."""
        ...

    def gather(self, name: str, files: Sequence[str]) -> None:
        """Have these files of a checkpoint at hand, from other nodes if need be. Never raises."""
        ...


class MemorySaves:
    """Of one rank. `info`: what the manifest of (step, serial) says besides its parts."""

    def __init__(
        self,
        directory: Path,
        keeper: Keeper,
        *,
        rank: int,
        world: int,
        pool: BufferPool,
        crew: Crew,
        info: Callable[[int, int], Mapping[str, Any]],
    ) -> None:
        self._directory, self._keeper, self._rank, self._world = directory, keeper, rank, world
        self._pool, self._crew, self._info = pool, crew, info
        self._hurry = threading.Event()
        self._count = 0
        self._last: Ticket | None = None

    @property
    def under_way(self) -> bool:
        """Whether one is not kept yet."""
        return self._last is not None and not self._last.done()

    def make_way(self) -> None:
        """A save to the directory is about to take a buffer: if there is none, that of ours is given up."""
        if self._pool.full:
            self._hurry.set()

    def begin(self, session: Session | Alone, ticket: Ticket, taken: snapshot.Snapshot) -> None:
        """Have a snapshot kept, in a thread of its own; the ticket tells."""
        before, self._last = self._last, ticket
        self._hurry.clear()
        threading.Thread(
            target=self._finish, args=(session, ticket, taken, before), name="slurmext-memory", daemon=True
        ).start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until nothing is being kept."""
        return self._last is None or self._last.settled.wait(timeout_s)

    def _finish(
        self, session: Session | Alone, ticket: Ticket, taken: snapshot.Snapshot, before: Ticket | None
    ) -> None:
        try:
            if before is not None:
                before.settled.wait()
            self._count += 1
            self._save(session, ticket, taken, f"{CHANNEL}-{ticket.step}-{self._count}")
            ticket.set_done()
        except Exception as error:  # noqa: BLE001 - the ticket's holder gets it
            ticket.set_done(error)
        finally:
            ticket.settled.set()

    def _save(self, session: Session | Alone, ticket: Ticket, taken: snapshot.Snapshot, name: str) -> None:
        try:
            folder: str = session.exchange(
                f"{name}-name", None, lambda _: f"save-{ticket.serial:08d}-step-{ticket.step}", channel=CHANNEL
            )
            value = self._hand_over(folder, taken)
        finally:
            with contextlib.suppress(Exception):
                taken.ready()  # when that failed the copy into the buffer may still be under way
            self._pool.give_back(taken.buffer)
        content: list[bytes] = []
        there: dict[str, Any] = session.exchange(
            name, value, lambda values: self._commit(session.id, name, ticket, values, content), channel=CHANNEL
        )
        ticket.path, ticket.size_bytes = self._directory / folder, there["size_bytes"]
        self._keep_manifest(folder, there["manifest"], content)

    def _hand_over(self, name: str, taken: snapshot.Snapshot) -> dict[str, Any]:
        try:
            taken.ready()
            file = f"rank-{self._rank:05d}-{secrets.token_hex(4)}.bin"
            part = self._part(taken, file)
            if taken.layout.size:
                content = taken.buffer.view[: taken.layout.size]
                self._keeper.keep(name, Handed(file=file, content=content), self._hurry.is_set)
        except Exception as error:  # noqa: BLE001 - said, or the other ranks wait for this one
            return {"error": str(error) or type(error).__name__}
        return {"part": part.to_json()}

    def _part(self, taken: snapshot.Snapshot, file: str) -> Part:
        digest, layout = digester(best()), taken.layout
        blocks: list[Block | None] = [None] * len(layout.blocks)

        def check(number: int) -> None:
            if self._hurry.is_set():
                raise CheckpointError(CAME_FIRST)
            at, size = layout.blocks[number]
            blocks[number] = Block(pack=0, offset=at, size=size, digest=digest(taken.buffer.view[at : at + size]))

        self._crew.each(check, range(len(blocks)))
        packs = [(file, layout.size)] if layout.size else []
        return manifest.part(taken.document, packs, [block for block in blocks if block], pieces_of(taken))

    def _commit(
        self, session_id: str, name: str, ticket: Ticket, values: list[dict[str, Any]], content: list[bytes]
    ) -> dict[str, Any]:
        """In rank 0, when all have handed over: the manifest, in a file where there are other ranks to read it."""
        problems = [f"rank {rank}: {value['error']}" for rank, value in enumerate(values) if "error" in value]
        if problems:
            raise CheckpointError(problems[0].removeprefix("rank 0: ") if self._world == 1 else problems[0])
        parts = [value["part"] for value in values]
        content.append(manifest.encode(self._info(ticket.step, ticket.serial), parts))
        size = len(content[0]) + sum(size for part in parts for _, size in part["packs"])
        drafts = self._directory / f".new-{session_id}-{CHANNEL}"
        if self._world > 1:
            # All have spoken since the last one, so all have read it.
            shutil.rmtree(drafts, ignore_errors=True)
            try:
                drafts.mkdir(exist_ok=True)
                (drafts / name).write_bytes(content[0])
            except OSError as error:
                raise write_error(self._directory, error) from error
        return {"manifest": str(drafts / name), "size_bytes": size}

    def _keep_manifest(self, folder: str, path: str, content: list[bytes]) -> None:
        text = content[0] if content else read_small(Path(path))
        self._keeper.keep(folder, Handed(file=manifest.NAME, content=memoryview(text)), lambda: False)
