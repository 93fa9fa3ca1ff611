"""What a GPU is for: whole, cut, shared. Changed only while nobody uses it; nothing is reset, nobody is killed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from slurmext.agent.slices.maker import Maker, Miss
from slurmext.agent.slices.records import Stage, Use
from slurmext.errors import GpuDriverError, SlurmextError
from slurmext.model.slicing import GpuUse

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurmext.adapters.tcp.orders import SetGpuUse
    from slurmext.agent.slices.journal import Book
    from slurmext.agent.spool import EventSpool
    from slurmext.model.mig import GpuCard
    from slurmext.ports import SliceDriver

log = logging.getLogger(__name__)


class Uses:
    """Carries out orders on the use of GPUs; the answer is the event `gpu_use`."""

    def __init__(
        self,
        book: Book,
        maker: Maker,
        driver: SliceDriver,
        events: EventSpool,
        *,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._book, self._maker, self._driver, self._events, self._changed = book, maker, driver, events, changed

    def set(self, order: SetGpuUse) -> None:
        """Do it, or say why not."""
        why = ""
        try:
            with self._maker.lock(order.gpu):
                self._maker.cards()
                self._switch(self._maker.card(order.gpu), order.use)
        except SlurmextError as error:
            why = str(error)
            log.warning("GPU %s is not made ready for %s use: %s", order.gpu, order.use, why)
        self._events.add("gpu_use", gpu=order.gpu, use=order.use.value, ok=not why, why=why)
        self._changed()

    def restore(self) -> None:
        """Hopper and later forget MIG mode when the node boots: turn it on again where it is ours."""
        for use in self._book.uses():
            if use.use is GpuUse.MIG and use.switched:
                try:
                    card = self._maker.card(use.gpu)
                    if card.mig is False:
                        self._driver.set_mig(use.gpu, on=True)
                        log.info("GPU %d is in MIG mode again", card.minor)
                        self._maker.cards()
                except SlurmextError as error:
                    log.warning("GPU %s is not in MIG mode: %s", use.gpu, error)

    def _switch(self, card: GpuCard, use: GpuUse) -> None:
        current = self._book.use(card.uuid)
        if current.use is use and (use is not GpuUse.MIG or card.mig):
            return
        if current.use is not use:
            self._refuse_if_used(card, current, use)
        if use is GpuUse.MIG:
            if card.mig is None:
                raise Miss(f"GPU {card.minor} ({card.name}) cannot be cut")
            if not card.mig:
                # The mode is ours from before it is on: a crash in between leaves a GPU that is put right at the start.
                self._book.keep(Use(gpu=card.uuid, use=GpuUse.MIG, switched=True))
                try:
                    self._driver.set_mig(card.uuid, on=True)
                except GpuDriverError:
                    self._book.leave(current)
                    raise
            else:
                self._book.keep(Use(gpu=card.uuid, use=GpuUse.MIG, switched=current.switched))
        else:
            if card.mig:
                self._leave_mig(card, current, use)
            self._book.keep(Use(gpu=card.uuid, use=use))
        self._maker.cards()

    def _refuse_if_used(self, card: GpuCard, current: Use, use: GpuUse) -> None:
        for reservation in self._book.reservations():
            if reservation.stage is not Stage.MISSED and any(item.gpu == card.uuid for item in reservation.items):
                raise Miss(f"GPU {card.minor}: job {reservation.job} has or awaits a part of it")
        if not self._maker.drop_warm(card.uuid):
            raise Miss(f"GPU {card.minor}: an instance of it is still in use")
        ours = {(made.start, made.profile) for made in self._book.made(gpu=card.uuid)}
        if card.mig and (listed := self._driver.instances(card.uuid)):
            foreign = [each for each in listed if (each.start, each.profile) not in ours]
            words = f"{foreign[0].profile} at {foreign[0].start} that slurmext did not make" if foreign else "instances"
            raise Miss(f"GPU {card.minor} has {words}")
        if current.use is GpuUse.WHOLE and (processes := self._driver.processes(card.uuid)):
            raise Miss(f"GPU {card.minor}: process {processes[0].pid} uses it, so it is not made ready for {use} use")

    def _leave_mig(self, card: GpuCard, current: Use, use: GpuUse) -> None:
        """Turned off where we turned it on; a GPU that was in MIG mode before is left so, and cannot be shared."""
        if current.switched:
            self._driver.set_mig(card.uuid, on=False)
        elif current.use is not GpuUse.MIG or use is GpuUse.SHARED:
            raise Miss(f"GPU {card.minor} is in MIG mode, which slurmext did not turn on")
