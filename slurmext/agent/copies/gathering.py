"""Files of a job's checkpoints from other nodes' memory, in the background of who asks for them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from cachetools import FIFOCache

from slurmext.agent.copies.passing import REMEMBERED, addresses
from slurmext.agent.copies.store import MANIFEST, NAME, CopyStore, Kept
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from slurmext.agent.copies.peers import Peer

log = logging.getLogger(__name__)

MOST = 16
"""Of one user at a time."""
ASKED = 8
"""Nodes that are asked for the newest there is."""
Key = tuple[object, ...]


class Gathering:
    """Of one node. `ask`: the controller, of a job id; `connect`: to another agent; `came`: called when files have."""

    def __init__(
        self,
        node: str,
        store: CopyStore,
        ask: Callable[[int], Mapping[str, object]],
        connect: Callable[[str, tuple[str, int]], Peer],
        came: Callable[[int, int], None],
    ) -> None:
        self._node, self._store, self._ask, self._connect, self._came = node, store, ask, connect, came
        self._lock = threading.Lock()
        self._under_way = FIFOCache[Key, threading.Thread](REMEMBERED)  # some never ask again for what they began

    def all_of(self, job_id: int, uid: int, wait_s: float) -> list[Kept] | int:
        """What there is of a job. When this node has nothing another is asked; while that takes longer than `wait_s`,
        the number of bytes that have come.
        """
        needed = not self._store.files(job_id, uid)
        pending = self._meanwhile((job_id, uid), lambda: self._fetch(job_id, uid), wait_s, needed=needed)
        return self._store.files(job_id, uid) if pending is None else pending

    def some_of(self, job_id: int, uid: int, name: str, files: Collection[str], wait_s: float) -> list[Kept] | int:
        """These files of the checkpoint `name`, from wherever they are; without a name, the newest manifest of all."""

        def here() -> list[Kept]:
            kept = self._store.files(job_id, uid)
            wanted = {MANIFEST} if not name else files
            return [one for one in kept if one.file in wanted and name in {"", one.name}]

        needed = not name or len(here()) < len(files)
        key = job_id, uid, name, *sorted(files)
        pending = self._meanwhile(key, lambda: self._gather(job_id, uid, name, files), wait_s, needed=needed)
        return here() if pending is None else pending

    def _meanwhile(self, key: Key, work: Callable[[], None], wait_s: float, *, needed: bool) -> int | None:
        with self._lock:
            thread = self._under_way.get(key)
            mine = [one for whose, one in self._under_way.items() if whose[1] == key[1] and one.is_alive()]
            crowded = thread is None and needed and len(mine) >= MOST
            if crowded:
                thread = mine[0]  # wait for another one first
            elif thread is None and needed:
                thread = threading.Thread(target=work, name="copies-fetch", daemon=True)
                self._under_way[key] = thread
                thread.start()
        if thread is not None:
            thread.join(wait_s)
            if crowded or thread.is_alive():
                job_id, uid = key[:2]
                return self._store.there_bytes(int(str(job_id)), int(str(uid)))
            with self._lock:
                self._under_way.pop(key, None)
        return None

    def _fetch(self, job_id: int, uid: int) -> None:
        """All that one other node has."""
        for node, where, _ in self._elsewhere(job_id):
            began_s = time.monotonic()
            try:
                with self._connect(node, where) as peer:
                    size = peer.get(job_id, uid, self._store)
            except (OSError, SlurmextError) as error:
                log.info("job %d: no copy from %s: %s", job_id, node, error)
                continue
            if self._store.files(job_id, uid):
                took_s = time.monotonic() - began_s
                log.info("job %d: %d MiB of copies fetched from %s in %.2f s", job_id, size >> 20, node, took_s)
                self._came(job_id, uid)
                return

    def _gather(self, job_id: int, uid: int, name: str, files: Collection[str]) -> None:
        """Certain files from all nodes that have some of them; without a name the newest manifest of some nodes."""
        elsewhere = self._elsewhere(job_id)
        if not name:
            newest_first = sorted(elsewhere, key=lambda one: max(one[2]), reverse=True)
            for node, where, _ in newest_first[:ASKED]:
                with contextlib.suppress(OSError, SlurmextError), self._connect(node, where) as peer:
                    peer.get(job_id, uid, self._store, name="", files=[MANIFEST])
            return
        for node, where, _ in sorted(elsewhere, key=lambda one: name not in one[2]):
            missing = set(files) - {kept.file for kept in self._store.files(job_id, uid) if kept.name == name}
            if not missing:
                break
            try:
                with self._connect(node, where) as peer:
                    size = peer.get(job_id, uid, self._store, name=name, files=missing)
            except (OSError, SlurmextError) as error:
                log.info("job %d: nothing of %s from %s: %s", job_id, name, node, error)
            else:
                log.info("job %d: %d MiB of %s fetched from %s", job_id, size >> 20, name, node)

    def _elsewhere(self, job_id: int) -> list[tuple[str, tuple[str, int], set[str]]]:
        """(node, address, names of whole checkpoints) of other nodes that have something of a job."""
        try:
            known = self._ask(job_id)
        except SlurmextError as error:
            log.info("job %d: the controller does not say where copies are: %s", job_id, error)
            return []
        where, copies = addresses(known), known.get("copies")
        names: dict[str, set[str]] = {}
        for copy in copies if isinstance(copies, list) else []:
            if isinstance(copy, dict) and NAME.fullmatch(str(copy.get("name"))):
                names.setdefault(str(copy["node"]), set()).add(str(copy["name"]))
        return [(node, where[node], found) for node, found in names.items() if node != self._node and node in where]
