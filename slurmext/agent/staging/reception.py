"""Receives one model: from one source or several, changing them while it runs, whatever becomes of them.

Every chunk is checked where it lies before it is announced; only then is it served onward. A source that sends a bad
chunk is not asked again. A source that is lost is replaced by a backup, or its share goes to the others; with nobody
left the known ones are tried again until `give_up_s` have passed without a chunk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from slurmext.agent.staging.shares import STRIPE, deal, moved
from slurmext.errors import SlurmextError
from slurmext.staging.order import Source, StageOrder
from slurmext.staging.store.staged import StagedModel
from slurmext.staging.transport import Claim, Inlet, LinkLost, Peer, Refused, Run

log = logging.getLogger(__name__)

RETRY_S: Final = 0.2
GIVE_UP_S: Final = 60.0


class Damaged(LinkLost):
    """A chunk that does not have its checksum."""


@dataclass(slots=True, eq=False)
class _Feed:
    source: Source
    assigned: set[int] = field(default_factory=set)
    claimed: set[int] = field(default_factory=set)
    """Chunks that are read ahead to where they belong: nobody else touches them."""
    inlet: Inlet | None = None
    stopped: bool = False
    waits: bool = False
    """Whether the source has sent all it has: what is missing is not there yet either."""


class Reception:
    """`connect` opens a link to a source, which may claim chunks ahead of giving them; `on_end` is called once, when
    the model is complete or was given up.
    """

    def __init__(
        self,
        staged: StagedModel,
        connect: Callable[[Source, Claim], Inlet],
        *,
        prepare: Callable[[StagedModel], None] = lambda _staged: None,
        on_end: Callable[[], None] = lambda: None,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self.staged = staged
        self.received: dict[str, int] = {}
        self.lost: dict[str, str] = {}
        self.rejected: set[str] = set()
        self._connect = connect
        self._prepare = prepare
        self._on_end = on_end
        self._give_up_s = give_up_s
        self._lock = threading.RLock()
        self._news = threading.Event()
        self._feeds: dict[str, _Feed] = {}
        self._wanted: tuple[Source, ...] = ()
        self._backups: tuple[Peer, ...] = ()
        self._busy: set[int] = set()
        self._ended = False
        self._last_s = time.monotonic()
        self._thread = threading.Thread(target=self._supervise, name="staging-receive", daemon=True)

    def start(self, order: StageOrder) -> None:
        """Begin to receive."""
        with self._lock:
            self._wanted, self._backups = order.sources, order.backups
        self._thread.start()

    def redirect(self, order: StageOrder) -> None:
        """Receive from these sources from now on; what is kept of the old ones goes on without a break."""
        with self._lock:
            self._wanted, self._backups = order.sources, order.backups
            names = {source.peer.node for source in order.sources}
            for source in order.sources:
                self.lost.pop(source.peer.node, None)
            for name, feed in list(self._feeds.items()):
                if name not in names:
                    self._stop(feed)
            if not self._ended and self._thread.is_alive():
                self._spread(order.sources)

    def stop(self) -> None:
        """Receive no more."""
        with self._lock:
            self._ended = True
            for feed in list(self._feeds.values()):
                self._stop(feed)
        self._news.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout_s)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources that are connected now."""
        with self._lock:
            return tuple(sorted(name for name, feed in self._feeds.items() if feed.inlet is not None))

    @property
    def starved(self) -> bool:
        """Whether no source has anything that is missing here."""
        with self._lock:
            feeds = [feed for feed in self._feeds.values() if feed.inlet is not None]
            return bool(feeds) and all(feed.waits for feed in feeds)

    def _supervise(self) -> None:
        try:
            self._prepare(self.staged)
            with self._lock:
                self._last_s = time.monotonic()
                if not self._ended:
                    self._spread(self._wanted)
            while not self._ended and not self.staged.complete and self.staged.fault is None:
                self._news.wait(RETRY_S)
                self._news.clear()
                self._revive()
        except Exception as error:
            log.exception("receiving %s", self.staged.key)
            self.staged.fail(str(error))
        finally:
            self.stop()
            if self.staged.complete:
                told = ", ".join(f"{size} bytes from {name}" for name, size in sorted(self.received.items()))
                log.info("%s is complete: %s", self.staged.key, told or "nothing was missing")
            self._on_end()

    def _revive(self) -> None:
        with self._lock:
            if self._ended or self.staged.complete:
                return
            if self._feeds:
                if not self._busy and not any(feed.assigned for feed in self._feeds.values()):
                    # What a source was sending when it was dropped belongs to nobody now.
                    self._spread([feed.source for feed in self._feeds.values()])
                return
            if time.monotonic() - self._last_s > self._give_up_s:
                told = "; ".join(f"{name}: {why}" for name, why in self.lost.items()) or "no source"
                self.staged.fail(f"nobody who could be reached has the rest ({told})")
                return
            known = [source for source in self._wanted if source.peer.node not in self.rejected]
            known += [Source(peer=peer) for peer in self._backups if peer.node not in self.rejected]
            if known:
                self._spread(known[:1] if known[0].peer.node not in self.lost else known[1:2] or known[:1])
                self.lost.clear()

    def _spread(self, sources: tuple[Source, ...] | list[Source]) -> None:
        """Deal what is missing to these sources, starting those that are not running. With the lock held."""
        usable = {one.peer.node: one for one in sources if one.peer.node not in self.rejected}
        if not usable:
            return
        missing = [index for index in self.staged.missing() if index not in self._busy]
        for name, share in deal(missing, {name: one.share for name, one in usable.items()}).items():
            feed = self._feeds.get(name)
            if feed is None or feed.stopped or feed.source.peer != usable[name].peer:
                self._begin(usable[name], share)
            else:
                gone = sorted(feed.assigned - set(share))
                self._ask(feed, gone, drop=True)
                self._ask(feed, [index for index in share if index not in feed.assigned])

    def _begin(self, source: Source, chunks: list[int]) -> None:
        feed = _Feed(source, set(chunks))
        self._feeds[source.peer.node] = feed
        threading.Thread(target=self._receive, args=(feed,), name=f"from-{source.peer.node}", daemon=True).start()

    def _ask(self, feed: _Feed, chunks: list[int], *, drop: bool = False) -> None:
        (feed.assigned.difference_update if drop else feed.assigned.update)(chunks)
        if feed.inlet is not None and chunks:
            try:
                feed.inlet.want(chunks, drop=drop)
            except LinkLost:
                feed.inlet.stop()  # its own thread deals with it

    def _stop(self, feed: _Feed) -> None:
        feed.stopped = True
        if self._feeds.get(feed.source.peer.node) is feed:
            del self._feeds[feed.source.peer.node]
        if feed.inlet is not None:
            feed.inlet.stop()

    def _receive(self, feed: _Feed) -> None:
        name = feed.source.peer.node
        try:
            inlet = self._connect(feed.source, lambda run: self._claim(feed, run))
            try:
                with self._lock:
                    if feed.stopped:
                        return
                    feed.inlet = inlet
                    inlet.want(sorted(index for index in feed.assigned if not self.staged.has(index)))
                while not feed.stopped and not self.staged.complete:
                    self._take(feed, inlet, inlet.receive())
            finally:
                inlet.close()
                with self._lock:
                    self._busy -= feed.claimed
                    feed.claimed.clear()
        except Damaged as error:
            log.warning("%s: %s sent damaged bytes: %s", self.staged.key, name, error)
            self.rejected.add(name)
            self._gone(feed, str(error))
        except Refused as error:
            log.warning("%s: %s", self.staged.key, error)
            self._gone(feed, str(error))
        except SlurmextError as error:
            if not feed.stopped:
                log.info("%s from %s: %s", self.staged.key, name, error)
            self._gone(feed, str(error))
        except Exception as error:
            log.exception("%s from %s", self.staged.key, name)
            self._gone(feed, str(error))

    def _claim(self, feed: _Feed, run: Run) -> bool:
        chunks = range(run.first, run.first + run.count)
        with self._lock:
            if feed.stopped or any(index in self._busy or self.staged.has(index) for index in chunks):
                return False
            self._busy.update(chunks)
            feed.claimed.update(chunks)
            return True

    def _take(self, feed: _Feed, inlet: Inlet, said: Run | int) -> None:
        if isinstance(said, int):
            feed.waits = True
            if not feed.stopped:
                self._help(feed)
            return
        feed.waits = said.due < STRIPE
        staged, name = self.staged, feed.source.peer.node
        for index in range(said.first, said.first + said.count):
            with self._lock:
                mine = index in feed.claimed or (not staged.has(index) and index not in self._busy)
                if mine:
                    self._busy.add(index)
            try:
                inlet.fill(index, staged.view(index) if mine else None)
                if not mine:
                    continue
                if not staged.check(index):
                    raise Damaged(f"chunk {index} has another checksum than the manifest says")
                self.received[name] = self.received.get(name, 0) + staged.manifest.lengths[index]
                staged.mark(index)
            finally:
                with self._lock:
                    if mine:
                        self._busy.discard(index)
                        feed.claimed.discard(index)
                    feed.assigned.discard(index)
        self._last_s = time.monotonic()
        if staged.complete:
            self._news.set()

    def _help(self, feed: _Feed) -> None:
        """A source that is done takes over half of what the one with most left still has to send."""
        with self._lock:
            if feed.assigned or len(self._feeds) < 2:  # noqa: PLR2004 - another one
                return
            others = [one for one in self._feeds.values() if one is not feed and one.inlet is not None]
            slowest = max(others, key=lambda one: (len(one.assigned), one.source.peer.node), default=None)
            if slowest is not None and (chunks := moved(sorted(slowest.assigned))):
                self._ask(slowest, chunks, drop=True)
                self._ask(feed, chunks)

    def _gone(self, feed: _Feed, why: str) -> None:
        """A source is lost: a backup steps in, else the others take its share, else it is tried again later."""
        with self._lock:
            if feed.stopped or self._ended:
                return
            name = feed.source.peer.node
            self._stop(feed)
            self.lost[name] = why
            left = sorted(index for index in feed.assigned if not self.staged.has(index))
            if self.staged.complete or not left:
                return
            used = {*self._feeds, *self.lost, *self.rejected}
            spare = next((peer for peer in self._backups if peer.node not in used), None)
            if spare is not None:
                log.info("%s: %s takes over from %s", self.staged.key, spare.node, name)
                self._begin(Source(peer=spare, share=feed.source.share), left)
                return
            for other, share in deal(left, dict.fromkeys(self._feeds, 1.0) or {"": 1.0}).items():
                if other:
                    self._ask(self._feeds[other], share)
