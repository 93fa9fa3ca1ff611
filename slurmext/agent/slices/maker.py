"""Makes MIG instances and takes them away: one thread at a time on a GPU, intents in the journal before each call."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slurmext.agent.slices.records import Made, Piece
from slurmext.errors import DeviceAccessError, GpuDriverError, GpuInUse, GpuOtherInstance, GpuPlaceTaken, SlurmextError
from slurmext.model.slicing import GpuUse

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurmext.adapters.tcp.orders import SliceItem
    from slurmext.agent.slices.journal import Book
    from slurmext.agent.slices.records import Reservation
    from slurmext.model.mig import GpuCard, MigInstance
    from slurmext.ports import DeviceAccess, SliceDriver

log = logging.getLogger(__name__)


class Miss(SlurmextError):
    """A slice cannot be had as it was reserved: its job goes back to the queue, with these words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPool:
    """Freed instances are kept for the next job with the same profile and place: how long, and how many on a GPU."""

    keep_s: float = 600.0
    most: int = 4


class Maker:
    """`end_leftovers` ends what an ended job's user still has running on an instance; it gets uid and pids."""

    def __init__(
        self,
        book: Book,
        driver: SliceDriver,
        access: DeviceAccess,
        *,
        pool: WarmPool = WarmPool(),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._book, self._driver, self._access, self._pool, self._now = book, driver, access, pool, now
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._cards: dict[str, GpuCard] = {}

    # cards

    def lock(self, gpu: str) -> threading.RLock:
        """Held by whoever changes something on that GPU."""
        return self._locks[gpu]

    def cards(self) -> dict[str, GpuCard]:
        """The node's GPUs by UUID, asked for anew. Raises GpuDriverError."""
        self._cards = {card.uuid: card for card in self._driver.cards()}
        return self._cards

    def known(self) -> list[GpuCard]:
        """The GPUs as they were when somebody asked last."""
        return list(self._cards.values())

    def card(self, gpu: str) -> GpuCard:
        """A GPU of this node. Raises Miss."""
        try:
            card = self._cards.get(gpu) or self.cards().get(gpu)
        except GpuDriverError as error:
            raise Miss(f"the GPU driver does not answer: {error}") from error
        if card is None:
            raise Miss(f"GPU {gpu} is not on this node")
        return card

    # making

    def make(self, reservation: Reservation, item: SliceItem, *, wanted: Callable[[], bool]) -> tuple[Made, bool]:
        """The instance of an item, only for the reservation's user, and whether it was there already. Raises Miss.

        `wanted` is asked once the GPU is ours: the job may have ended while others had it.
        """
        with self.lock(item.gpu):
            if not wanted():
                raise Miss("the job ended while its slices were made")
            card = self.card(item.gpu)
            try:
                made = self._take_over(reservation, item)
                warm = made is not None
                made = made or self._create(reservation, item, card)
            except GpuDriverError as error:
                raise Miss(f"{item.profile} at {item.start} on GPU {card.minor}: {error}") from error
            try:
                self._access.give(card, made.instance, uid=reservation.uid, job_id=reservation.job_id)
            except DeviceAccessError as error:
                self.destroy(made)
                raise Miss(f"GPU {card.minor}: {error}") from error
            return made, warm

    def _take_over(self, reservation: Reservation, item: SliceItem) -> Made | None:
        """A warm one of the same profile at the same place; its instance is looked at first."""
        known = self._book.at(item.gpu, _start(item))
        if known is None:
            return None
        if known.piece is not Piece.WARM:
            holder = self._book.reservation(known.reservation)
            raise Miss(f"the place is {known.piece}" + (f" by job {holder.job}" if holder else ""))
        found = self._find(known)
        if known.profile != item.profile or found is None or self._driver.processes(item.gpu, found):
            if not self.destroy(known):
                raise Miss("an instance that was there before is still in use")
            return None
        made = replace(known, piece=Piece.BUSY, reservation=reservation.reservation, at_s=self._now())
        self._book.keep(made)
        return made

    def _create(self, reservation: Reservation, item: SliceItem, card: GpuCard) -> Made:
        for warm in self._in_the_way(item, card):
            self.destroy(warm)
        others = tuple(instance.gi for instance in self._driver.instances(item.gpu))
        made = Made(gpu=item.gpu, profile=item.profile or "", start=_start(item), piece=Piece.CREATING,
                    at_s=self._now(), reservation=reservation.reservation, others=others)  # fmt: skip
        self._book.keep(made)
        try:
            instance = self._driver.create(item.gpu, made.profile, made.start)
        except GpuDriverError as error:
            gone = self.destroy(made)  # what a failure left behind
            # Compute slices run out before memory units do, and NVML does not tell: no warm one stays in the way.
            if isinstance(error, GpuPlaceTaken) and gone and self._warm(item.gpu) and self.drop_warm(item.gpu):
                return self._create(reservation, item, card)
            raise
        made = replace(made, piece=Piece.BUSY, gi=instance.gi, ci=instance.ci, profile_id=instance.profile_id,
                       uuid=instance.uuid)  # fmt: skip
        if not made.is_at(instance) or not instance.uuid:
            self._driver.destroy(instance)
            self._book.drop_made(made)
            raise Miss(f"the driver made {instance.profile} at {instance.start} instead")
        try:
            self._book.keep(made)
        except SlurmextError:
            self._book.leave(made)
            self.destroy(made)
            raise
        return made

    def _in_the_way(self, item: SliceItem, card: GpuCard) -> list[Made]:
        wanted = _units(card, item.profile, _start(item))
        return [warm for warm in self._warm(item.gpu) if not wanted.isdisjoint(_units(card, warm.profile, warm.start))]

    def _warm(self, gpu: str) -> list[Made]:
        return [made for made in self._book.made(gpu=gpu) if made.piece is Piece.WARM]

    # taking away

    def retire(self, made: Made, *, job_id: int, keep: bool) -> bool:
        """The job is over: nobody may open its instance any more, which is kept for the next or destroyed. False when
        that has to be tried again, because a process still has it or the driver does not answer.
        """
        with self.lock(made.gpu):
            current = self._book.at(*made.place)
            if current is None or current.reservation != made.reservation:
                return True
            with contextlib.suppress(Miss):
                self._lock_up(self.card(made.gpu), current, job_id)
            if keep and self._keeps_warm(current):
                return True
            return self.destroy(current)

    def _lock_up(self, card: GpuCard, made: Made, job_id: int) -> None:
        try:
            self._access.take_back(card, made.instance, job_id=job_id)
        except DeviceAccessError as error:
            log.warning("GPU %d, %s at %d: %s", card.minor, made.profile, made.start, error)

    def _keeps_warm(self, made: Made) -> bool:
        if made.piece is not Piece.BUSY or self._pool.keep_s <= 0 or len(self._warm(made.gpu)) >= self._pool.most:
            return False
        if self._book.use(made.gpu).use is not GpuUse.MIG:
            return False
        try:
            found = self._find(made)
            if found is None or self._driver.processes(made.gpu, found):
                return False
            self._book.keep(replace(made, piece=Piece.WARM, reservation="", at_s=self._now()))
        except SlurmextError:
            return False
        return True

    def destroy(self, made: Made) -> bool:
        """Take an instance of ours away; False when that has to be tried again. What is not ours stays."""
        with self.lock(made.gpu):
            if made.piece is not Piece.DESTROYING:
                made = replace(made, piece=Piece.DESTROYING)
                self._book.leave(made)
            try:
                for instance in self._driver.instances(made.gpu):
                    if made.is_at(instance) and self._is_ours(made, instance):
                        self._driver.destroy(instance)
            except GpuOtherInstance as error:
                log.warning("%s", error)
            except GpuInUse as error:
                log.info("%s at %d of GPU %s stays for now: %s", made.profile, made.start, made.gpu, error)
                return False
            except GpuDriverError as error:
                log.warning("%s at %d of GPU %s stays for now: %s", made.profile, made.start, made.gpu, error)
                return False
            self._book.drop_made(made)
            return True

    @staticmethod
    def _is_ours(made: Made, instance: MigInstance) -> bool:
        if made.uuid and instance.uuid:
            return made.uuid == instance.uuid
        if made.gi >= 0:
            return made.gi == instance.gi  # one of the two steps of making or destroying it is still missing
        return instance.gi not in made.others

    def _find(self, made: Made) -> MigInstance | None:
        """The instance itself, if it still exists."""
        for instance in self._driver.instances(made.gpu):
            if made.is_at(instance) and instance.uuid == made.uuid:
                return instance
        return None

    def age(self) -> bool:
        """Destroy what was warm for too long; True when there was any."""
        oldest_s = self._now() - self._pool.keep_s
        old = [made for made in self._book.made() if made.piece is Piece.WARM and made.at_s <= oldest_s]
        for made in old:
            self.drop_warm(made.gpu, made.profile, made.start)
        return bool(old)

    def drop_warm(self, gpu: str, profile: str | None = None, start: int | None = None) -> bool:
        """Destroy the warm instance there, or all of the GPU's; False when one of them stays."""
        with self.lock(gpu):
            warm = [made for made in self._warm(gpu) if profile in {None, made.profile} and start in {None, made.start}]
            gone = [self.destroy(made) for made in warm]
        return all(gone)


def _start(item: SliceItem) -> int:
    return -1 if item.start is None else item.start


def _units(card: GpuCard, profile: str | None, start: int) -> frozenset[int]:
    """Memory units that an instance takes; all there may be when the card's profiles are not known."""
    known = card.geometry.profile(profile) if card.geometry is not None and profile is not None else None
    return frozenset(range(start, start + known.memory_units) if known else range(64))
