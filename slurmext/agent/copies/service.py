"""Keeping, passing on and handing out copies of checkpoints, for the handlers of this node."""

from __future__ import annotations

import logging
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmext.adapters.tcp.wire import split_address
from slurmext.agent.copies.peers import CHUNK, Peer, PeerServer
from slurmext.agent.copies.store import MANIFEST, CopyStore, Kept, memory_bytes
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from slurmext.adapters.munge import MungeAuth
    from slurmext.agent.spool import EventSpool
    from slurmext.config.site import CopiesSite

log = logging.getLogger(__name__)

TIDY_S = 60.0
PROGRESS_S = 5.0
REST_S = 30.0
REMEMBERED = 1000
WAITING = 4
"""Checkpoints of one user that may wait."""
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


class Copies:
    """Of one node. Each user has a thread that copies: one whose file system hangs delays nobody else."""

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
        self._node, self._munge, self._uids, self._events, self._ask = node, munge, frozenset(uids), events, ask
        self._alive = alive
        self.store = CopyStore(
            site.dir / f"{cluster}-{node}",
            user_bytes=int(whole * site.user_percent / 100),
            all_bytes=int(whole * site.all_percent / 100),
            keep_s=site.keep_s,
        )
        self.store.on_gone = self._gone
        self._server = PeerServer(split_address(site.listen), self.store, munge, self._uids)
        self._server.on_put = self._came
        self._lock = threading.Lock()
        self._queues: dict[int, queue.Queue[Given]] = {}
        self._copying: set[int] = set()
        self._stop = threading.Event()
        self._fetches: dict[tuple[int, int], threading.Thread] = {}
        self._sent: dict[tuple[int, str], str] = {}
        self._stated_s: dict[tuple[int, str], float] = {}

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

    def keep(self, job_id: int, uid: int, name: str, files: Sequence[str], descriptors: Sequence[int]) -> int:
        """Begin to copy a job's files; returns how many bytes that is, 0 when too much waits. Raises SlurmextError."""
        given: list[Given] = []
        try:
            for file, descriptor in zip(files, descriptors, strict=True):
                info = os.fstat(descriptor)
                if not stat.S_ISREG(info.st_mode):
                    raise SlurmextError(f"{file[:60]!r} is no regular file")  # noqa: TRY301
                given.append(
                    Given(
                        descriptor=os.dup(descriptor), job_id=job_id, uid=uid, name=name, file=file, size=info.st_size
                    )
                )
            with self._lock:
                waiting = self._queues.setdefault(uid, queue.Queue())
                if waiting.qsize() >= WAITING * len(given):
                    for one in given:
                        os.close(one.descriptor)
                    return 0  # earlier ones are still being copied; the next checkpoint comes anyway
                for one in given:
                    waiting.put(one)
                if uid not in self._copying:
                    self._copying.add(uid)
                    threading.Thread(target=self._copy_all, args=(uid,), name=f"copies-{uid}", daemon=True).start()
        except BaseException:
            for one in given:
                os.close(one.descriptor)
            raise
        return sum(one.size for one in given)

    def hand_out(self, job_id: int, uid: int, wait_s: float = 1.0) -> list[Kept] | int:
        """What there is of a job. When this node has nothing another is asked; while that takes longer than `wait_s`,
        the number of bytes that have come.
        """
        found = self.store.files(job_id, uid)
        key = job_id, uid
        with self._lock:
            fetch = self._fetches.get(key)
            if fetch is None and not found:
                fetch = threading.Thread(target=self._fetch, args=(job_id, uid), name="copies-fetch", daemon=True)
                self._fetches[key] = fetch
                fetch.start()
        if fetch is not None:
            fetch.join(wait_s)
            if fetch.is_alive():
                return self.store.there_bytes(job_id, uid)
            with self._lock:
                self._fetches.pop(key, None)
        return self.store.files(job_id, uid)

    def _fetch(self, job_id: int, uid: int) -> None:
        try:
            known = self._ask(job_id)
        except SlurmextError as error:
            log.info("job %d: the controller does not say where copies are: %s", job_id, error)
            return
        peers, copies = _addresses(known), known.get("copies")
        nodes = [str(copy["node"]) for copy in copies if isinstance(copy, dict)] if isinstance(copies, list) else []
        for node in dict.fromkeys(nodes):
            if node == self._node or node not in peers:
                continue
            began_s = time.monotonic()
            try:
                with Peer(peers[node], node=self._node, munge=self._munge, uids=self._uids) as peer:
                    size = peer.get(job_id, uid, self.store)
            except (OSError, SlurmextError) as error:
                log.info("job %d: no copy from %s: %s", job_id, node, error)
                continue
            if found := self.store.files(job_id, uid):
                took_s = time.monotonic() - began_s
                log.info("job %d: %d MiB of copies fetched from %s in %.2f s", job_id, size >> 20, node, took_s)
                for name in {kept.name for kept in found}:
                    self._state(job_id, name, "memory", found)
                return

    def forget(self, job_id: int) -> None:
        """A new job has this id."""
        for name in self.store.forget(job_id):
            self._gone(job_id, name)

    def _gone(self, job_id: int, name: str) -> None:
        self._events.add("ckpt_copy", job_id=job_id, name=name, tier="memory", size_bytes=0, done_bytes=0)

    # a user's thread

    def _copy_all(self, uid: int) -> None:
        waiting = self._queues[uid]
        while not self._stop.is_set():
            try:
                given = waiting.get(timeout=REST_S)
            except queue.Empty:
                with self._lock:  # nobody hands anything in now
                    if waiting.empty():
                        self._copying.discard(uid)
                        return
                continue
            try:
                self._copy(given)
            except (OSError, SlurmextError) as error:
                log.info("job %d: no copy of %s/%s: %s", given.job_id, given.name, given.file, error)
            except Exception:  # the thread lives on: nobody else copies for this user
                log.exception("job %d: no copy of %s/%s", given.job_id, given.name, given.file)
            finally:
                os.close(given.descriptor)

    def _copy(self, given: Given) -> None:
        path = self.store.place(given.job_id, given.uid, given.name, given.file, given.size)
        try:
            with path.open("wb", buffering=0) as file:
                done = 0
                while done < given.size:
                    chunk = os.pread(given.descriptor, min(CHUNK, given.size - done), done)
                    if not chunk:
                        raise SlurmextError("the file became shorter while it was copied")  # noqa: TRY301
                    file.write(chunk)
                    done += len(chunk)
                    self._progress(given, done)
            self.store.commit(given.uid, path)
        except BaseException:
            self.store.abandon(given.uid, path)
            raise
        self._state(given.job_id, given.name, "memory")
        self._pass_on(given)

    def _pass_on(self, given: Given) -> None:
        """The same file to another node's agent: the one after ours in the ring of those that are connected."""
        try:
            peers = _addresses(self._ask(given.job_id))
        except SlurmextError as error:
            log.info("job %d: %s stays on this node only: %s", given.job_id, given.name, error)
            return
        ring = sorted(peers)
        after = [node for node in ring if node > self._node] + [node for node in ring if node < self._node]
        wanted = given.name, given.file
        here = self.store.files(given.job_id, given.uid)
        kept = next((item for item in here if (item.name, item.file) == wanted), None)
        # All files of a checkpoint go to one node; when one does not get there, its manifest shall not either.
        whole = given.job_id, given.name
        chosen = self._sent.get(whole)
        for node in ([chosen] if chosen is not None else after[:2]) if kept else []:
            if node not in peers:
                break
            try:
                with Peer(peers[node], node=self._node, munge=self._munge, uids=self._uids) as peer:
                    peer.put(given.job_id, given.uid, given.name, given.file, kept.path, kept.size)
            except (OSError, SlurmextError) as error:
                log.info("job %d: %s was not copied to %s: %s", given.job_id, given.name, node, error)
            else:
                self._sent[whole] = node
                return
        self._sent[whole] = ""
        while len(self._sent) > REMEMBERED:
            self._sent.pop(next(iter(self._sent)))

    def _came(self, job_id: int, name: str) -> None:
        self._state(job_id, name, "peer")

    def _progress(self, given: Given, done: int) -> None:
        key, now = (given.job_id, given.name), time.monotonic()
        if now - self._stated_s.setdefault(key, now) > PROGRESS_S and done < given.size:
            self._stated_s[key] = now
            self._events.add(
                "ckpt_copy", job_id=given.job_id, uid=given.uid, name=given.name, tier="memory",
                size_bytes=given.size, done_bytes=done,
            )  # fmt: skip

    def _state(self, job_id: int, name: str, tier: str, kept: Sequence[Kept] | None = None) -> None:
        """Say how much of a checkpoint is here."""
        if kept is None:
            found = [k for owner in self.store.owners(job_id) for k in self.store.files(job_id, owner)]
        else:
            found = list(kept)
        mine = [item for item in found if item.name == name]
        size = sum(item.size for item in mine)
        if any(item.file == MANIFEST for item in mine):  # it comes last: before that this is no checkpoint
            self._events.add("ckpt_copy", job_id=job_id, name=name, tier=tier, size_bytes=size, done_bytes=size)

    def _tidy(self) -> None:
        while not self._stop.wait(TIDY_S):
            try:
                for job_id, name in self.store.expire(self._alive(), time.time()):
                    self._gone(job_id, name)
            except Exception:
                log.exception("copies that nobody needs stay for now")


def _addresses(known: Mapping[str, object]) -> dict[str, tuple[str, int]]:
    peers = known.get("peers")
    if not isinstance(peers, dict):
        return {}
    return {
        str(node): (str(where[0]), int(where[1]))
        for node, where in peers.items()
        if isinstance(where, list) and len(where) == 2  # noqa: PLR2004
    }
