"""The models of one node as one thing: what the agent starts, stops, orders and asks.

Nothing is mounted until there is a model here or on its way: sites without models pay for a port and a directory.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from slurmext.adapters.tcp.model_orders import ActOnModel, Catalogue, ModelOrder, PreloadJob, StageModel
from slurmext.adapters.transport.handshake import Identity
from slurmext.agent.staging.catalogue import KnownModels
from slurmext.agent.staging.engine import StagingEngine
from slurmext.agent.staging.inventory import briefs
from slurmext.agent.staging.jobfiles import JobFiles
from slurmext.agent.staging.links import Links
from slurmext.agent.staging.pool import capacities, claim, is_used, memory_bytes, open_tiers, open_transport
from slurmext.agent.staging.preloads import Outcome, Preloads, holder_of
from slurmext.errors import SlurmextError
from slurmext.staging.errors import StagingError
from slurmext.staging.kinds import StageState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from slurmext.adapters.transport.handshake import Prover
    from slurmext.agent.spool import EventSpool
    from slurmext.config.site import StagingSite
    from slurmext.staging.names import ModelKey
    from slurmext.staging.order import Progress
    from slurmext.staging.transport import Transport

log = logging.getLogger(__name__)

TELL_S: Final = 0.5
"""How often it is told how far models are that are on their way."""
LOOK_S: Final = 0.1
IDLE_LOOK_S: Final = 2.0
_MOST_WAITING: Final = 50
"""Events that wait for slurmextd; how far a model is, is told only while there are fewer."""
_MUCH: Final = 0.1
_MOST_MODELS: Final = 400


class StagingOff(SlurmextError):
    """Models are not staged on this node: `staging.memory_percent` of the site file is 0."""


class Models:
    """`manifest_of(key)` asks slurmextd for a model's manifest; `job_ids` are the jobs that run here; `domain_of` tells
    the NVLink domain that the node is in.
    """

    def __init__(
        self,
        site: StagingSite,
        *,
        node: str,
        run_dir: Path,
        prover: Callable[[], Prover],
        uids: Collection[int],
        events: EventSpool,
        manifest_of: Callable[[ModelKey], bytes],
        connected: Callable[[], bool],
        job_ids: Callable[[], Collection[int]],
        most_wait_s: Callable[[], float] = lambda: math.inf,
        domain_of: Callable[[], str] = str,
    ) -> None:
        self._domain_of, self._domain = domain_of, ""
        self._most_wait_s = most_wait_s
        self._site, self._node, self._events = site, node, events
        self._prover, self._uids = prover, frozenset(uids)
        self._manifest_of, self._connected, self._job_ids = manifest_of, connected, job_ids
        self._lock = threading.RLock()
        self._transport: Transport | None = None
        self._engine: StagingEngine | None = None
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._orders: queue.SimpleQueue[ModelOrder | None] = queue.SimpleQueue()
        self._told: object = None
        self._told_s = 0.0
        self._told_bps = 0.0, 0.0
        self._files = JobFiles(run_dir / f"agent-{node}.models")
        self._links = Links()
        self._catalogue = KnownModels(run_dir / f"agent-{node}.catalogue")
        self._preloads = Preloads(
            node=node,
            engine=self.engine,
            files=self._files,
            events=events,
            connected=connected,
            catalogue=self._catalogue,
        )
        self._threads = [threading.Thread(target=target, name=name, daemon=True)
                         for name, target in (("models", self._tend), ("model-orders", self._obey_all))]  # fmt: skip

    @property
    def on(self) -> bool:
        """Whether models are staged here at all."""
        return memory_bytes(self._site) > 0 or self._site.disk_dir is not None

    def start(self) -> None:
        """Serve what an agent before this one left, forget what jobs that have ended held, and wait for orders."""
        self._files.retain(self._job_ids())
        if self.on:
            try:
                claim(self._site, self._node)
                self._listen()
                if is_used(self._site, self._node):
                    self.engine()
            except (SlurmextError, OSError) as error:
                log.warning("no models are staged on this node: %s", error)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Receive and serve no more; what is here stays and counts."""
        self._stop.set()
        self._changed.set()
        self._orders.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2)
        with self._lock:
            if self._engine is not None:
                self._engine.stop()
            elif self._transport is not None:
                self._transport.stop()

    def engine(self) -> StagingEngine:
        """The engine, opened when it is first needed. Raises SlurmextError, OSError."""
        with self._lock:
            if self._engine is None:
                if not self.on:
                    raise StagingOff("no models are staged on this node (staging.memory_percent of the site file)")
                transport = self._listen()
                tiers = open_tiers(self._site, self._node)
                cap = self._site.tx_cap_gbps
                engine = StagingEngine(
                    tiers, transport, tx_cap_bps=None if cap is None else cap * 1e9, registry=self._manifest_of
                )
                self._forget_ended(engine)
                engine.start()
                self._engine = engine
                log.info("models: served at %s:%d", *engine.address)
            return self._engine

    def _listen(self) -> Transport:
        with self._lock:
            if self._transport is None:
                identity = Identity(node=self._node, prover=self._prover(), trusted_uids=self._uids)
                self._transport = open_transport(self._site, identity)
            return self._transport

    def announce(self) -> None:
        """A controller connected: tell it everything."""
        self._told = None
        self._changed.set()

    @property
    def greeting(self) -> dict[str, object]:
        """What the agent says of models when it connects: where it serves them. Nothing when it takes none."""
        return {} if self._transport is None else {"models": self._facts(self._transport)}

    def obey(self, order: ModelOrder) -> None:
        """Carry it out soon, in the order in which they came. What a job asked for is known at once."""
        if isinstance(order, PreloadJob):
            self._preloads.told(order)
        elif isinstance(order, Catalogue):
            self._catalogue.told(order.models, first=order.first)
        else:
            self._orders.put(order)

    def preload(self, job_id: int, uid: int, text: str) -> list[Outcome]:
        """A job's prolog: wait for its models, for at most the site's time. Its tasks are told what came of it."""
        try:
            self.engine()
        except (SlurmextError, OSError) as error:
            log.warning("job %d: %s", job_id, error)
            self._files.write(job_id, uid, [f"print slurmext: no models are staged on {self._node}: {error}"])
            return []
        found = self._preloads.prepare(job_id, uid, text, min(self._site.prolog_wait_s, self._most_wait_s()))
        missed = [f"{each.model.reference} ({each.why})" for each in found if not each.complete]
        log.info("job %d: %d models are here%s", job_id, len(found) - len(missed),
                 f", missed: {', '.join(missed)}" if missed else "")  # fmt: skip
        self._changed.set()
        return found

    def epilog(self, job_id: int) -> None:
        """A job has left. Whatever goes wrong here, its epilog goes on."""
        if self._engine is not None:
            try:
                self._preloads.end(job_id)
            except (SlurmextError, OSError) as error:
                log.warning("models of job %d are still held: %s", job_id, error)
            self._changed.set()
        self._files.remove(job_id)

    def _forget_ended(self, engine: StagingEngine) -> None:
        """Unpin for jobs that ended while no agent ran."""
        alive = {holder_of(job_id) for job_id in self._job_ids()}
        for one in engine.progress():
            for holder in one.pins:
                if holder.startswith("job-") and holder not in alive:
                    engine.unpin(one.key, holder, one.tier)

    # orders

    def _obey_all(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self._carry_out(order)
            except (SlurmextError, OSError) as error:
                log.warning("%s: %s", order.line(), error)
            except Exception:
                log.exception("%s", order.line())
            self._changed.set()

    def _carry_out(self, order: ModelOrder) -> None:
        engine = self.engine()
        if isinstance(order, StageModel):
            engine.stage(order.order)
        elif isinstance(order, ActOnModel):
            if order.act == "cancel":
                engine.cancel(order.key, order.tier)
            elif order.act == "evict":
                engine.evict(order.key, order.tier)
            elif order.act == "pin":
                engine.pin(order.key, order.holder, order.tier)
            elif order.act == "unpin":
                engine.unpin(order.key, order.holder, order.tier)
            else:
                self._recheck(engine, order)

    def _recheck(self, engine: StagingEngine, order: ActOnModel) -> None:
        staged = engine.find(order.key, order.tier)
        if staged is None:
            raise StagingError(f"{order.key} is not in the {order.tier}")
        bad = staged.recheck()
        log.info("%s: %d chunks of %d are bad", order.key, len(bad), staged.manifest.chunk_count)

    # telling

    def _tend(self) -> None:
        self._find_domain()
        while not self._stop.is_set():
            busy = False
            try:
                busy = self._tell()
            except Exception:
                log.exception("models were not told")
            self._changed.wait(LOOK_S if busy else IDLE_LOOK_S if self._engine is not None else None)
            self._changed.clear()

    def _find_domain(self) -> None:
        """In the background: a driver that nobody uses may take seconds to answer."""
        if self._transport is None:
            return
        self._domain = self._domain_of()
        if self._domain:
            log.info("models: this node is in the NVLink domain %s", self._domain)
            # Until there is a model here, the inventory says nothing.
            self._events.add("models", **self._facts(self._transport))
            self.announce()

    def _tell(self) -> bool:
        """Tell what changed; whether something is on its way."""
        engine = self._engine
        if engine is None:
            return False
        found = engine.progress()[:_MOST_MODELS]
        state = tuple((one.key, one.tier, one.state, one.fingerprint, one.pins, one.why) for one in found)
        busy = any(one.state in {StageState.RECEIVING, StageState.WAITING} for one in found)
        now_s = time.monotonic()
        progressing = busy and now_s - self._told_s >= TELL_S and self._connected()
        if state != self._told or self._loaded(now_s) or (progressing and len(self._events) < _MOST_WAITING):
            self._told, self._told_s = state, now_s
            self._events.add("models", **self._inventory(engine, found))
        return busy

    def _loaded(self, now_s: float) -> bool:
        """Whether the network link carries much more or less than was told: who plans transfers should know."""
        if now_s - self._told_s < IDLE_LOOK_S or not self._connected():
            return False
        now, most = self._links.used_bps(), _MUCH * self._site.link_gbps * 1e9
        return any(abs(one - told) > most for one, told in zip(now, self._told_bps, strict=True))

    def _inventory(self, engine: StagingEngine, found: tuple[Progress, ...]) -> dict[str, Any]:
        assert self._transport is not None  # noqa: S101  the engine has it
        tx_bps, rx_bps = self._told_bps = self._links.used_bps()
        return {
            **self._facts(self._transport),
            "tx_bps": tx_bps,
            "rx_bps": rx_bps,
            "room": engine.room(),
            "models": briefs(found),
        }

    def _facts(self, transport: Transport) -> dict[str, Any]:
        site = self._site
        return {
            "port": transport.address[1],
            "host": None if site.host is None else site.host.replace("%n", self._node),
            "domain": self._domain,
            "domain_host": None if site.domain_host is None else site.domain_host.replace("%n", self._node),
            "domain_bps": None if site.domain_gbps is None else site.domain_gbps * 1e9,
            "link_bps": site.link_gbps * 1e9,
            "tx_cap_bps": None if site.tx_cap_gbps is None else site.tx_cap_gbps * 1e9,
            "storage_bps": site.storage_gbps * 1e9,
            "room": capacities(site),
        }
