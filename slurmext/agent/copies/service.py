"""Keeping, passing on and handing out copies of checkpoints, for the handlers of this node."""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import FIFOCache

from slurmext.adapters.tcp.wire import split_address
from slurmext.agent.copies.gathering import Gathering
from slurmext.agent.copies.lanes import Lanes
from slurmext.agent.copies.passing import REMEMBERED, Leaving, Passing, addresses
from slurmext.agent.copies.peers import CHUNK, Peer, PeerServer
from slurmext.agent.copies.store import CopyStore, Kept, memory_bytes
from slurmext.agent.copies.telling import Telling
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from slurmext.adapters.munge import MungeAuth
    from slurmext.agent.spool import EventSpool
    from slurmext.config.site import CopiesSite

log = logging.getLogger(__name__)

TIDY_S = 60.0
STREAM_S = 15.0
"""Who sends through a pipe is not to keep others of the user waiting."""
WAITING = 4
"""Checkpoints of one user that may wait."""
MOST_WAITING = 256
"""Files of one user that may wait: each is an open descriptor of ours."""
Peers = Callable[[int], Mapping[str, object]]
"""Of a job id: what the controller answers to `ckpt_copies`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A file that a job handed in: a descriptor of ours, and what it is."""

    descriptor: int
    job_id: int
    uid: int
    name: str
    file: str
    size: int
    stream: bool = False
    only: bool = False

    @property
    def key(self) -> tuple[int, int, str, str]:
        """What it is."""
        return self.uid, self.job_id, self.name, self.file


class Copies:
    """Of one node. Each user has a thread that copies, and one that passes on."""

    def __init__(
        self,
        site: CopiesSite,
        *,
        cluster: str,
        node: str,
        munge: MungeAuth,
        uids: Collection[int],
        events: EventSpool,
        ask: Peers,
        alive: Callable[[], set[int]],
    ) -> None:
        whole = memory_bytes()
        self._node, self._munge, self._uids = node, munge, frozenset(uids)
        self._alive = alive
        self.store = CopyStore(
            site.dir / f"{cluster}-{node}",
            user_bytes=int(whole * site.user_percent / 100),
            all_bytes=int(whole * site.all_percent / 100),
            keep_s=site.keep_s,
        )
        self._server = PeerServer(split_address(site.listen), self.store, munge, self._uids)
        self._server.on_put = self._came
        self.store.alive = alive
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._lanes = Lanes[Given]("copies", self._take, self._stop)
        self._under_way: Counter[tuple[int, int, str, str]] = Counter()
        self._failed = FIFOCache[tuple[int, int, str, str], str](REMEMBERED)
        self._gathering = Gathering(node, self.store, ask, self._connect, self._fetched)
        self.passing = Passing(node, self.store, lambda job_id: addresses(ask(job_id)), self._connect, self._stop)
        self._telling = Telling(events)
        self.store.on_gone = self._telling.gone

    @property
    def port(self) -> int:
        """Where other agents reach this one."""
        return self._server.port

    def start(self) -> None:
        """Serve other agents, and remove what nobody needs any more now and then."""
        self._server.start()
        threading.Thread(target=self._tidy, name="copies-tidy", daemon=True).start()

    def stop(self) -> None:
        """Serve no more; what is kept stays."""
        self._stop.set()
        self._server.stop()

    def keep(
        self,
        job_id: int,
        uid: int,
        name: str,
        files: Sequence[str],
        descriptors: Sequence[int],
        *,
        sizes: Sequence[int] | None = None,
        only: bool = False,
    ) -> int:
        """Begin to copy a job's files; returns how many bytes that is, 0 when too much waits. Raises SlurmextError.

        `sizes`: of what comes through pipes; else they are regular files. `only`: it is nowhere else.
        """
        given: list[Given] = []
        try:
            for number, (file, descriptor) in enumerate(zip(files, descriptors, strict=True)):
                info = os.fstat(descriptor)
                stream = sizes is not None
                if not (stat.S_ISFIFO if stream else stat.S_ISREG)(info.st_mode):
                    raise SlurmextError(f"{file[:60]!r} is no {'pipe' if stream else 'regular file'}")  # noqa: TRY301
                given.append(
                    Given(
                        descriptor=os.dup(descriptor),
                        job_id=job_id,
                        uid=uid,
                        name=name,
                        file=file,
                        size=info.st_size if sizes is None else sizes[number],
                        stream=stream,
                        only=only,
                    )
                )
            waiting = self._lanes.waiting(uid)
            others = {(one.job_id, one.name) for one in waiting} - {(job_id, name)}
            if len(others) >= WAITING or len(waiting) + len(given) > MOST_WAITING:
                for one in given:
                    os.close(one.descriptor)
                return 0  # earlier ones are still being copied; the next checkpoint comes anyway
        except BaseException:
            for one in given:
                os.close(one.descriptor)
            raise
        with self._lock:
            self._under_way.update(one.key for one in given)
            for one in given:
                self._failed.pop(one.key, None)
        self._lanes.add(uid, given)
        return sum(one.size for one in given)

    def kept(self, job_id: int, uid: int, name: str, files: Collection[str]) -> bool | str:
        """Whether all these files are here; False while some are being copied, and why not when one will not be."""
        with self._lock:
            missing = [(uid, job_id, name, file) for file in files]
            under_way = any(key in self._under_way for key in missing)
            failed = next((self._failed[key] for key in missing if key in self._failed), None)
        here = {kept.file for kept in self.store.files(job_id, uid) if kept.name == name}
        if under_way:
            return False
        if failed is None and not here.issuperset(files):
            failed = "the agent does not have it any more"
        return failed or True

    def hand_out(self, job_id: int, uid: int, wait_s: float = 1.0) -> list[Kept] | int:
        """What there is of a job, from this node's memory or another's; see `Gathering.all_of`."""
        return self._gathering.all_of(job_id, uid, wait_s)

    def gather(self, job_id: int, uid: int, name: str, files: Collection[str], wait_s: float = 1.0) -> list[Kept] | int:
        """Certain files of a job's checkpoint from all nodes; see `Gathering.some_of`."""
        return self._gathering.some_of(job_id, uid, name, files, wait_s)

    def _fetched(self, job_id: int, uid: int) -> None:
        found = self.store.files(job_id, uid)
        for name in {kept.name for kept in found}:
            self._telling.here(job_id, name, "memory", found)

    def _connect(self, node: str, where: tuple[str, int]) -> Peer:
        del node
        return Peer(where, node=self._node, munge=self._munge, uids=self._uids)

    def forget(self, job_id: int) -> None:
        """A new job has this id."""
        for name in self.store.forget(job_id):
            self._telling.gone(job_id, name)

    # a user's thread

    def _take(self, given: Given) -> None:
        why = None
        try:
            self._copy(given)
        except (OSError, SlurmextError) as error:
            why = str(error)
            log.info("job %d: no copy of %s/%s: %s", given.job_id, given.name, given.file, error)
        except Exception:  # the thread lives on: nobody else copies for this user
            why = "the agent failed; its log says how"
            log.exception("job %d: no copy of %s/%s", given.job_id, given.name, given.file)
        finally:
            os.close(given.descriptor)
        with self._lock:
            self._under_way[given.key] -= 1
            if self._under_way[given.key] <= 0:
                del self._under_way[given.key]
            if why is not None:
                self._failed[given.key] = why

    def _copy(self, given: Given) -> None:
        path = self.store.place(given.job_id, given.uid, given.name, given.file, given.size, only=given.only)
        try:
            with path.open("wb", buffering=0) as file:
                done = 0
                while done < given.size:
                    chunk = _chunk(given, done)
                    if not chunk:
                        raise SlurmextError("the file became shorter while it was copied")  # noqa: TRY301
                    file.write(chunk)
                    done += len(chunk)
                    self._telling.progress(given.job_id, given.uid, given.name, given.size, done)
            self.store.commit(given.uid, path)
        except BaseException:
            self.store.abandon(given.uid, path)
            raise
        self._state(given.job_id, given.name, "memory")
        self.passing.add(Leaving(job_id=given.job_id, uid=given.uid, name=given.name, file=given.file))

    def _came(self, job_id: int, name: str) -> None:
        self._state(job_id, name, "peer")

    def _state(self, job_id: int, name: str, tier: str) -> None:
        found = [kept for owner in self.store.owners(job_id) for kept in self.store.files(job_id, owner)]
        self._telling.here(job_id, name, tier, found)

    def _tidy(self) -> None:
        while not self._stop.wait(TIDY_S):
            try:
                for job_id, name in self.store.expire(self._alive(), time.time()):
                    self._telling.gone(job_id, name)
            except Exception:
                log.exception("copies that nobody needs stay for now")


def _chunk(given: Given, done: int) -> bytes:
    """Some bytes after the first `done`, none at the end. Raises OSError, SlurmextError when a pipe brings nothing."""
    size = min(CHUNK, given.size - done)
    if not given.stream:
        return os.pread(given.descriptor, size, done)
    poll = select.poll()
    poll.register(given.descriptor, select.POLLIN)
    if not poll.poll(1000 * STREAM_S):
        raise SlurmextError(f"nothing came for {STREAM_S:.0f} s")
    return os.read(given.descriptor, size)
