"""The agent's staging engine: carries out orders, serves peers, says how far it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from slurmext.adapters.transport.files import FileInlet
from slurmext.agent.staging.arrivals import Arrivals
from slurmext.agent.staging.reception import GIVE_UP_S, Reception
from slurmext.agent.staging.serving import Serving
from slurmext.errors import SlurmextError
from slurmext.staging.errors import NotStaged, StagingError
from slurmext.staging.manifest import Manifest, parse_manifest, shared_chunks
from slurmext.staging.names import ModelKey
from slurmext.staging.order import Progress, Source, StageOrder, StageState
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.store.staged import StagedModel
from slurmext.staging.store.tier import Tier, TierKind
from slurmext.staging.transport import Claim, Inlet, LinkLost, Outlet, Peer, Transport

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0
"""How long a peer that asks for a model waits for this node to hear of it too."""
_LOCAL: Final = "(disk)"


class StagingEngine:
    """One node's models: `tiers` to keep them in, `transport` to get and give them. `tx_cap_bps` limits what it sends.

    Manifests may be given beforehand (`learn`), else they are fetched from the sources, or at last from `registry`, and
    checked.
    """

    def __init__(
        self,
        tiers: Mapping[TierKind, Tier],
        transport: Transport,
        *,
        tx_cap_bps: float | None = None,
        give_up_s: float = GIVE_UP_S,
        registry: Callable[[ModelKey], bytes] | None = None,
    ) -> None:
        self._registry = registry
        self._tiers = tiers
        self._transport = transport
        self._tx_cap_bps = tx_cap_bps
        self._give_up_s = give_up_s
        self._changed = threading.Condition()
        self._manifests: dict[str, Manifest] = {}
        self._receptions: dict[tuple[ModelKey, TierKind], Reception] = {}
        self._latest: dict[tuple[ModelKey, TierKind], Reception] = {}
        self._starting: dict[tuple[ModelKey, TierKind], StageOrder] = {}
        self._failed: dict[tuple[ModelKey, TierKind], str] = {}
        self._servings: set[Serving] = set()
        self._arrivals: dict[tuple[ModelKey, TierKind], Arrivals] = {}
        self._stopping = False

    def start(self) -> None:
        """Serve what is here."""
        self._transport.serve(self._find, self._serve, self._manifest_of)

    def stop(self) -> None:
        """Stop receiving and serving; what is here stays and counts."""
        self._stopping = True
        self._transport.stop()
        with self._changed:
            receptions = list(self._receptions.values())
            self._changed.notify_all()
        for reception in receptions:
            reception.stop()
        for reception in receptions:
            reception.join(5)
        for tier in self._tiers.values():
            tier.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where it serves."""
        return self._transport.address

    def learn(self, manifest: Manifest) -> None:
        """Know a manifest without asking a peer for it."""
        with self._changed:
            self._manifests[manifest.fingerprint()] = manifest

    def stage(self, order: StageOrder) -> None:
        """Have the model here; returns at once. For one that is being received: take it from these sources instead."""
        place = order.key, order.tier
        with self._changed:
            reception = self._receptions.get(place)
            self._failed.pop(place, None)
            if reception is not None and reception.staged.fingerprint == order.fingerprint:
                reception.redirect(order)
                self._arrivals.pop(place, None)  # what comes from other sources begins anew
                return
            if place in self._starting:
                self._starting[place] = order
                return
            self._starting[place] = order
        threading.Thread(target=self._begin, args=(place,), name="staging-begin", daemon=True).start()

    def cancel(self, key: ModelKey, tier: TierKind = TierKind.MEMORY) -> None:
        """Receive no more of it; what is here stays and can be resumed."""
        with self._changed:
            self._starting.pop((key, tier), None)
            reception = self._receptions.get((key, tier))
        if reception is not None:
            reception.stop()
            reception.join(5)

    def evict(self, key: ModelKey, tier: TierKind = TierKind.MEMORY) -> None:
        """Remove it. Raises StagingError when it is pinned, NotStaged when it is not here."""
        staged = self._tier(tier).get(key)
        if staged is None:
            raise NotStaged(f"{key} is not in this node's {tier} tier")
        if staged.pins:
            raise StagingError(f"{key} is pinned by {', '.join(sorted(staged.pins))}: unpin it first")
        self.cancel(key, tier)
        self._tier(tier).evict(key)

    def pin(self, key: ModelKey, holder: str, tier: TierKind = TierKind.MEMORY) -> bool:
        """Keep the model while `holder` needs it; False when nothing of it is here."""
        found = self._tier(tier).pin(key, holder)
        if found:
            self._tier(tier).used(key)
        return found

    def unpin(self, key: ModelKey, holder: str, tier: TierKind = TierKind.MEMORY) -> None:
        """`holder` needs it no longer."""
        self._tier(tier).unpin(key, holder)

    def find(self, key: ModelKey, tier: TierKind = TierKind.MEMORY) -> StagedModel | None:
        """The model, whole or in part."""
        return self._tier(tier).get(key)

    def wait(self, key: ModelKey, timeout_s: float, tier: TierKind = TierKind.MEMORY) -> bool:
        """Wait until the model is complete here; False when it is not within the time, or has failed."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or (key, tier) in self._failed or self._settled(key, tier), timeout_s
            )
            staged = self._tier(tier).get(key)
        return staged is not None and staged.wait(max(0.0, deadline_s - time.monotonic()))

    def failure(self, key: ModelKey, tier: TierKind = TierKind.MEMORY) -> str:
        """Why nothing more of the model comes here; empty while it may."""
        with self._changed:
            why = self._failed.get((key, tier), "")
            starting = (key, tier) in self._starting
        staged = self._tier(tier).get(key)
        return "" if starting else why or (staged.fault or "" if staged is not None else "")

    def room(self) -> dict[str, tuple[int, int]]:
        """Bytes that models take, and may take, by tier."""
        return {kind.value: (tier.used_bytes, tier.capacity_bytes) for kind, tier in self._tiers.items()}

    def _settled(self, key: ModelKey, tier: TierKind) -> bool:
        return (key, tier) not in self._starting and self._tier(tier).get(key) is not None

    def progress(self) -> tuple[Progress, ...]:
        """Every model here or on its way, by name."""
        now_s = time.monotonic()
        told: dict[tuple[ModelKey, TierKind], Progress] = {}
        with self._changed:
            starting, failed = dict(self._starting), dict(self._failed)
            latest = dict(self._latest)
        for place in starting:
            told[place] = Progress(key=place[0], tier=place[1], state=StageState.WAITING, ready_bytes=0, size=0)
        for place, why in failed.items():
            told[place] = Progress(key=place[0], tier=place[1], state=StageState.FAILED, ready_bytes=0, size=0, why=why)
        for kind, tier in self._tiers.items():
            for key, staged in tier.models().items():
                told[key, kind] = self._progress_of(staged, kind, latest.get((key, kind)), now_s)
        for gone in self._arrivals.keys() - told.keys():
            self._arrivals.pop(gone, None)
        return tuple(told[place] for place in sorted(told))

    def _progress_of(self, staged: StagedModel, kind: TierKind, reception: Reception | None, now_s: float) -> Progress:
        ready = staged.ready_bytes
        place = staged.key, kind
        rate = self._arrivals.setdefault(place, Arrivals(now_s, ready)).rate(ready, now_s)
        if staged.settled:
            state = StageState.COMPLETE
        elif staged.fault is not None:
            state = StageState.FAILED
        else:
            state = StageState.RECEIVING if place in self._receptions else StageState.WAITING
        return Progress(
            key=staged.key,
            tier=kind,
            state=state,
            ready_bytes=ready,
            size=staged.manifest.size,
            rate_bps=0.0 if staged.complete else rate,
            received=dict(reception.received) if reception else {},
            starved=reception is not None and reception.starved,
            lost=dict(reception.lost) if reception else {},
            rejected=tuple(sorted(reception.rejected)) if reception else (),
            why=staged.fault or "",
            fingerprint=staged.fingerprint,
            pins=tuple(sorted(staged.pins)),
        )

    def _begin(self, place: tuple[ModelKey, TierKind]) -> None:
        try:
            with self._changed:
                order = self._starting.get(place)
            if order is None:
                return
            manifest = self._manifest_for(order)
            staged = self._tier(order.tier).create(manifest, order.access, owner=order.owner)
            if not staged.complete:
                staged.prefault()
            elif not staged.settled:
                staged.flush()  # the disk was full when it was to be written
        except SlurmextError as error:
            log.warning("%s: %s", place[0], error)
            self._give_up(place, str(error))
            return
        except Exception as error:
            log.exception("%s", place[0])
            self._give_up(place, str(error))
            return
        with self._changed:
            order = self._starting.pop(place, None)
            if order is not None and not staged.complete:
                reception = Reception(
                    staged,
                    lambda source, claim: self._connect(source, staged, claim),
                    prepare=self._fill_from_others,
                    on_end=lambda: self._ended(place),
                    give_up_s=self._give_up_s,
                )
                self._receptions[place] = self._latest[place] = reception
                reception.start(self._from_own_disk(order))
            self._changed.notify_all()

    def _give_up(self, place: tuple[ModelKey, TierKind], why: str) -> None:
        with self._changed:
            self._starting.pop(place, None)
            self._failed[place] = why
            self._changed.notify_all()

    def _ended(self, place: tuple[ModelKey, TierKind]) -> None:
        with self._changed:
            self._receptions.pop(place, None)

    def _manifest_for(self, order: StageOrder) -> Manifest:
        with self._changed:
            known = self._manifests.get(order.fingerprint)
        if known is not None:
            return known
        problems: list[str] = []
        # Those before the sources have it for sure; the sources may still be waiting for it themselves.
        for peer in (*reversed(order.backups), *(source.peer for source in order.sources)):
            if peer.node == STORAGE:
                continue
            try:
                raw = self._transport.fetch_manifest(peer, order.fingerprint)
                manifest = parse_manifest(raw, fingerprint=order.fingerprint)
            except StagingError as error:
                problems.append(str(error))
                continue
            self.learn(manifest)
            return manifest
        if self._registry is not None:
            try:
                manifest = parse_manifest(self._registry(order.key), fingerprint=order.fingerprint)
            except SlurmextError as error:
                problems.append(str(error))
            else:
                self.learn(manifest)
                return manifest
        raise NotStaged(f"{order.key}: nobody gave its manifest ({'; '.join(problems) or 'no source but storage'})")

    def _connect(self, source: Source, staged: StagedModel, claim: Claim) -> Inlet:
        if source.peer.node in {STORAGE, _LOCAL}:
            if source.peer.node == STORAGE and staged.owner is None:
                raise LinkLost(f"whose {staged.key} is, is not known: storage is not read for it")
            owner = staged.owner if source.peer.node == STORAGE else None
            # What is read past the page cache does not go well into pages of another file on disk.
            into = None if staged.durable else staged
            path = Path(source.peer.address)
            return FileInlet(source.peer, path, staged.manifest, owner=owner, into=into, claim=claim)
        return self._transport.connect(source.peer, staged, cap_bps=source.cap_bps)

    def _from_own_disk(self, order: StageOrder) -> StageOrder:
        """Take what this node's disk has from there, past the page cache; the order's sources step in if that fails."""
        disk = self._tiers.get(TierKind.DISK)
        held = disk.get(order.key) if disk is not None and order.tier is TierKind.MEMORY else None
        if disk is None or held is None or not held.complete or held.fingerprint != order.fingerprint:
            return order
        peers = [source.peer for source in order.sources if source.peer.node != _LOCAL]
        backups = tuple(dict.fromkeys((*peers, *order.backups)))
        return replace(order, sources=(disk_source(disk, order.key),), backups=backups)

    def _fill_from_others(self, staged: StagedModel) -> None:
        """Copy what other models here have too: revisions and fine-tunes share most of their chunks.

        Only from models of the same owner, and root's public ones. Checksums of chunks are no proof against a forger:
        a chunk of another user's could be made to look like one of these, or be claimed without ever having been read.
        """
        others = [
            other
            for tier in self._tiers.values()
            for other in tier.models().values()
            if other is not staged
            and other.ready_chunks
            and other.fingerprint != staged.fingerprint
            and (other.owner == staged.owner or (other.owner == 0 and other.access.public))
        ]
        if not others:
            return
        found = shared_chunks(staged.manifest, [other.manifest for other in others])
        copied = 0
        for index, (number, theirs) in found.items():
            other = others[number]
            if staged.has(index) or not other.has(theirs):
                continue
            staged.view(index)[:] = other.view(theirs)
            if staged.check(index):
                staged.mark(index)
                copied += 1
        if copied:
            log.info("%s: %d of %d chunks were here already", staged.key, copied, staged.manifest.chunk_count)

    def _find(self, _node: str, fingerprint: str) -> StagedModel | None:
        deadline_s = time.monotonic() + PATIENCE_S
        with self._changed:
            while not self._stopping:
                for tier in self._tiers.values():
                    for staged in tier.models().values():
                        if staged.fingerprint == fingerprint and staged.fault is None:
                            return staged
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    return None
        return None

    def _manifest_of(self, fingerprint: str) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._known(fingerprint) is not None or self._stopping, PATIENCE_S)
            manifest = self._known(fingerprint)
        return None if manifest is None else manifest.dump()

    def _known(self, fingerprint: str) -> Manifest | None:
        if fingerprint in self._manifests:
            return self._manifests[fingerprint]
        staged = [one for tier in self._tiers.values() for one in tier.models().values()]
        return next((one.manifest for one in staged if one.fingerprint == fingerprint), None)

    def _serve(self, outlet: Outlet, staged: StagedModel) -> None:
        serving = Serving(outlet, staged)
        with self._changed:
            self._servings.add(serving)
            self._share_cap()
        try:
            log.info("sending %s to %s", staged.key, outlet.node)
            serving.run()
        except LinkLost as error:
            log.info("sending %s to %s: %s", staged.key, outlet.node, error)
        finally:
            with self._changed:
                self._servings.discard(serving)
                self._share_cap()

    def _share_cap(self) -> None:
        if self._tx_cap_bps is None:
            return
        for serving in self._servings:
            try:
                serving.outlet.pace(self._tx_cap_bps / len(self._servings))
            except OSError:
                continue  # it is ending

    def _tier(self, kind: TierKind) -> Tier:
        try:
            return self._tiers[kind]
        except KeyError:
            raise StagingError(f"this node has no {kind} tier: set one up in the site file") from None


def disk_source(tier: Tier, key: ModelKey) -> Source:
    """The own disk as a source."""
    return Source(peer=Peer(node=_LOCAL, address=str(tier.path_of(key))))
