"""A copy to another node's agent as well: the one after ours in the ring of those that are connected."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import FIFOCache

from slurmext.agent.copies.lanes import Lanes
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slurmext.agent.copies.peers import Peer
    from slurmext.agent.copies.store import CopyStore

log = logging.getLogger(__name__)

REMEMBERED = 1000
TRIES = 2
Addresses = dict[str, tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Where the files of a checkpoint went: `node` is empty when one did not get there, and `why` says so."""

    node: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A file of ours to be passed on."""

    job_id: int
    uid: int
    name: str
    file: str


class Passing:
    """Of one node. `addresses`: of the other agents, for a job, as the controller says; `connect`: to one of them."""

    def __init__(
        self,
        node: str,
        store: CopyStore,
        addresses: Callable[[int], Addresses],
        connect: Callable[[str, tuple[str, int]], Peer],
        stop: threading.Event,
    ) -> None:
        self._node, self._store, self._addresses, self._connect = node, store, addresses, connect
        self._lanes = Lanes[Leaving]("copies-out", self._pass_on, stop)
        self._lock = threading.Lock()
        self._passed = FIFOCache[tuple[int, str], Passed](REMEMBERED)

    def add(self, leaving: Leaving) -> None:
        """Pass this on, after what is on its way of the same user."""
        self._lanes.add(leaving.uid, [leaving])

    def outcome(self, job_id: int, name: str) -> Passed | None:
        """Where a checkpoint's files went so far; None before the first did."""
        with self._lock:
            return self._passed.get((job_id, name))

    def _pass_on(self, leaving: Leaving) -> None:
        whole = leaving.job_id, leaving.name
        try:
            passed = self._given(leaving, self.outcome(*whole))
        except (OSError, SlurmextError) as error:
            log.info("job %d: %s stays on this node only: %s", leaving.job_id, leaving.name, error)
            passed = Passed(node="", why=str(error))
        with self._lock:
            self._passed[whole] = passed

    def _given(self, leaving: Leaving, former: Passed | None) -> Passed:
        # All files of a checkpoint go to one node; when one does not get there, its manifest shall not either.
        if former is not None and not former.node:
            return former
        wanted = leaving.name, leaving.file
        here = self._store.files(leaving.job_id, leaving.uid)
        kept = next((item for item in here if (item.name, item.file) == wanted), None)
        if kept is None:
            return Passed(node="", why="a newer one took its place")
        peers = self._addresses(leaving.job_id)
        ring = sorted(peers)
        after = [node for node in ring if node > self._node] + [node for node in ring if node < self._node]
        why = "no other node's agent is connected"
        for node in after[:TRIES] if former is None else [former.node]:
            try:
                with self._connect(node, peers[node]) as peer:
                    peer.put(leaving.job_id, leaving.uid, kept)
            except (OSError, SlurmextError, KeyError) as error:
                why = f"{node}: {error}"
                log.info("job %d: %s was not copied to %s", leaving.job_id, leaving.name, why)
            else:
                return Passed(node=node)
        return Passed(node="", why=why)


def addresses(known: Mapping[str, object]) -> Addresses:
    """Where other agents are, of the controller's answer to `ckpt_copies`."""
    peers = known.get("peers")
    if not isinstance(peers, dict):
        return {}
    return {
        str(node): (str(where[0]), int(where[1]))
        for node, where in peers.items()
        if isinstance(where, list) and len(where) == 2  # noqa: PLR2004
    }
