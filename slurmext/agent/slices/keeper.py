"""Slices of jobs on this node: reserved by the controller, made in the prolog, given back after the epilog."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from slurmext.agent.slices.check import Leaving, check
from slurmext.agent.slices.records import Piece, Reservation, Stage
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurmext.adapters.tcp.orders import ReserveSlices
    from slurmext.agent.mps.shares import Shares
    from slurmext.agent.slices.journal import Book
    from slurmext.agent.slices.maker import Maker
    from slurmext.agent.slices.taskfile import TaskFiles
    from slurmext.agent.spool import EventSpool
    from slurmext.ports import SliceDriver

log = logging.getLogger(__name__)

WORKERS = 4
"""Slices of different GPUs are freed at the same time: on a real card each takes about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a keeper works with."""

    book: Book
    maker: Maker
    shares: Shares
    driver: SliceDriver
    files: TaskFiles
    events: EventSpool


class SliceKeeper:
    """Threads may call any method. `changed` is called when the controller should see a new inventory.

    `name_of` is what Slurm calls a job by that number (`12_3`): a reservation may be of an array's task whose own
    number nobody knew yet.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        changed: Callable[[], None] = lambda: None,
        name_of: Callable[[int], str | None] = lambda _job_id: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._p = parts
        self._changed, self._name_of, self._now = changed, name_of, now
        self._lock = threading.RLock()
        self._making: set[str] = set()
        self._put_off: set[str] = set()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="slices")

    def stop(self) -> None:
        """Finish nothing that has not begun; the next agent does."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # orders

    def reserve(self, order: ReserveSlices) -> None:
        """Take a reservation, or say why not. An order that comes again gets the same answer again.

        What is in the way may be another reservation that the controller has given up already, while this node still
        clears it away or was not told yet: the order gets no answer then, and comes again a little later.
        """
        with self._lock:
            known = self._p.book.reservation(order.reservation)
            if known is not None:
                self._repeat(known)
                return
            if self._p.book.ended(order.reservation):
                self._say("slice_freed", order, items=[])
                return
            for former in self._p.book.of_job(order.job_id):
                if former.stage is Stage.RESERVED and former.job == (order.job or str(order.job_id)):
                    self._end(former, [])
        reservation = Reservation(
            reservation=order.reservation, job_id=order.job_id, job=order.job or str(order.job_id),
            uid=order.uid, items=order.items, restarts=order.restarts, stage=Stage.RESERVED, at_s=self._now(),
            asked=order.asked,
        )  # fmt: skip
        try:
            # Hooks need not wait for the driver here: only orders reserve, and they come one after the other.
            check(order, book=self._p.book, maker=self._p.maker, driver=self._p.driver)
            self._p.book.keep(reservation)
        except SlurmextError as error:
            if isinstance(error, Leaving) and order.reservation not in self._put_off:
                self._put_off.add(order.reservation)
                log.info("job %s: %s; the order will come again", reservation.job, error)
                return
            self._put_off.discard(order.reservation)
            self._say("slice_missed", order, reason=str(error))
            return
        self._put_off.discard(order.reservation)
        with self._lock:
            if not any(each.began_s is not None for each in self._p.book.of_job(order.job_id)):
                self._p.files.wait(order.job_id, order.uid)
            self._say("slice_reserved", reservation)

    def withdraw(self, name: str) -> None:
        """Forget a reservation; what was made for it is freed."""
        self._put_off.discard(name)
        with self._lock:
            known = self._p.book.reservation(name)
            if known is None:
                self._p.events.add("slice_freed", reservation=name, items=[])
            else:
                self._drop(known)

    def _repeat(self, known: Reservation) -> None:
        match known.stage:
            case Stage.LIVE:
                self._say("slice_made", known, items=self._items(known), ms=None)
            case Stage.MISSED:
                self._say("slice_missed", known, reason=known.why)
            case Stage.RESERVED | Stage.MAKING:
                self._say("slice_reserved", known)
            case Stage.FREEING:
                pass  # it says so when it is done

    # hooks

    def prolog(self, job_id: int, uid: int, *, restarts: int | None = None, wanted: bool = False) -> str | None:
        """Make the job's slices. The reason why it has none, None when all is well or it asked for none.

        `wanted` says that the job asked for slices; else that shows in a reservation. `restarts` None: not known.
        """
        began_s = time.perf_counter()
        name = self._name_of_task(job_id, uid)
        with self._lock:
            reservation = self._begin(job_id, uid, restarts, wanted=wanted, name=name)
        if isinstance(reservation, str):
            return reservation or None
        try:
            warm = self._make_all(reservation)
        except SlurmextError as error:
            return self._give_up(reservation, str(error))
        finally:
            with self._lock:
                self._making.discard(reservation.reservation)
        return self._finish(reservation, warm, (time.perf_counter() - began_s) * 1000)

    def _name_of_task(self, job_id: int, uid: int) -> str | None:
        """What Slurm calls the job, asked only where a task of an array of this user has a reservation: those are made
        when it has no number of its own yet, under that of its array, which one of the tasks has later.
        """
        tasks = [each for each in self._p.book.reservations() if _waits_as_task(each) and each.uid == uid]
        return self._name_of(job_id) if tasks else None

    def _begin(
        self, job_id: int, uid: int, restarts: int | None, *, wanted: bool, name: str | None
    ) -> Reservation | str:
        """The reservation that is to be made now, or the reason why there is none ("": nothing is to be done)."""
        for each in self._p.book.reservations():
            if _waits_as_task(each) and each.job == name and each.uid == uid:
                self._p.book.leave(replace(each, job_id=job_id))
        mine = [each for each in self._p.book.of_job(job_id) if not _waits_as_task(each) or each.job == name]
        fits = [each for each in mine if each.restarts is None or restarts is None or each.restarts == restarts]
        fresh = next((each for each in reversed(fits) if each.stage is Stage.RESERVED), None)
        if fresh is None and any(each.stage in {Stage.LIVE, Stage.MAKING} for each in fits):
            return ""  # this run's prolog came again
        for former in mine:
            if former.stage in {Stage.LIVE, Stage.MAKING, Stage.MISSED}:
                self._drop(former)  # its epilog never came
        if fresh is None:
            if not wanted and not mine:
                return ""
            why = "no reservation of slices is known here"
        elif fresh.uid != uid:
            why = f"the slices are reserved for uid {fresh.uid}, and the job is of uid {uid}"
        else:
            try:
                fresh = replace(fresh, stage=Stage.MAKING, began_s=self._now())
                self._p.book.keep(fresh)
            except SlurmextError as error:
                why = str(error)
            else:
                self._making.add(fresh.reservation)
                return fresh
        known = None if fresh is None else fresh.reservation
        if fresh is not None:
            self._p.book.leave(replace(fresh, stage=Stage.MISSED, began_s=self._now(), why=why))
        self._p.files.miss(job_id, uid, why)
        self._p.events.add("slice_missed", job_id=job_id, reservation=known, reason=why)
        log.warning("job %d: %s", job_id, why)
        return why

    def _make_all(self, reservation: Reservation) -> set[int]:
        """Make every item; returns the numbers of those that were there already. Raises Miss, JournalError."""
        warm: set[int] = set()
        for number, item in enumerate(reservation.items):
            if item.is_mig:
                _, was_there = self._p.maker.make(reservation, item, wanted=lambda: self._is_wanted(reservation))
                if was_there:
                    warm.add(number)
            else:
                self._p.shares.make(reservation, number, wanted=lambda: self._is_wanted(reservation))
        return warm

    def _is_wanted(self, reservation: Reservation) -> bool:
        current = self._p.book.reservation(reservation.reservation)
        return current is not None and current.stage is Stage.MAKING

    def _finish(self, reservation: Reservation, warm: set[int], ms: float) -> str | None:
        with self._lock:
            if not self._is_wanted(reservation):
                self._clear(reservation)
                return "the job ended while its slices were made"
            live = replace(reservation, stage=Stage.LIVE)
            self._p.book.leave(live)
            self.show(live)
            items = self._items(live)
            for number in warm:
                items[number]["warm"] = True
            self._say("slice_made", live, items=items, ms=round(ms, 1))
        self._changed()
        return None

    def _give_up(self, reservation: Reservation, why: str) -> str:
        """Nothing of it stays, nobody else is touched; the job's tasks will not start."""
        with self._lock:
            if self._is_wanted(reservation):
                self._p.book.leave(replace(reservation, stage=Stage.MISSED, why=why))
                self._p.files.miss(reservation.job_id, reservation.uid, why)
                self._say("slice_missed", reservation, reason=why)
                log.warning("job %d: %s", reservation.job_id, why)
        self._clear(reservation)
        self._changed()
        return why

    def epilog(self, job_id: int) -> None:
        """The job's last process here is gone: free its slices. A reservation for its next run stays."""
        with self._lock:
            for each in self._p.book.of_job(job_id):
                if each.stage in {Stage.MAKING, Stage.LIVE, Stage.MISSED}:
                    self._drop(each)
            self._p.files.remove(job_id)
            for each in self._p.book.of_job(job_id):
                if each.stage is Stage.RESERVED:
                    self._p.files.wait(job_id, each.uid)

    # giving back

    def _drop(self, reservation: Reservation) -> None:
        name = reservation.reservation
        clear = not self._p.book.made(reservation=name) and not self._p.book.shares(reservation=name)
        if clear and reservation.stage in {Stage.RESERVED, Stage.MISSED} and name not in self._making:
            self._end(reservation, [])
            return
        self._p.book.leave(replace(reservation, stage=Stage.FREEING))
        self._p.files.remove(reservation.job_id)
        if reservation.reservation not in self._making:  # else the prolog clears it away itself
            self._pool.submit(self._clear_safely, reservation)

    def tend(self) -> None:
        """Try again what could not be freed at once."""
        for each in self._p.book.reservations():
            if each.stage in {Stage.FREEING, Stage.MISSED} and each.reservation not in self._making:
                self._clear_safely(each)

    def _clear_safely(self, reservation: Reservation) -> None:
        try:
            self._clear(reservation)
        except Exception:
            log.exception("slices of job %d are not free yet", reservation.job_id)

    def _clear(self, reservation: Reservation) -> None:
        """Give back every piece of it; it ends with the last one."""
        name = reservation.reservation
        items: list[dict[str, Any]] = []
        for made in self._p.book.made(reservation=name):
            keep = made.piece is Piece.BUSY
            if self._p.maker.retire(made, job_id=reservation.job_id, keep=keep):
                now = self._p.book.at(*made.place)
                kept = now is not None and now.piece is Piece.WARM and now.uuid == made.uuid
                items.append({"gpu": made.gpu, "profile": made.profile, "start": made.start, "kept": kept})
        items += [
            {"gpu": share.gpu, "share_pct": share.share_pct, "memory_mib": share.memory_mib}
            for share in self._p.book.shares(reservation=name)
            if self._p.shares.remove(share)
        ]
        with self._lock:
            current = self._p.book.reservation(name)
            left = self._p.book.made(reservation=name) or self._p.book.shares(reservation=name)
            if current is not None and current.stage is Stage.FREEING and not left:
                self._end(current, items)
        if items:
            self._changed()

    def _end(self, reservation: Reservation, items: list[dict[str, Any]]) -> None:
        self._p.book.end(reservation)
        if not self._p.book.of_job(reservation.job_id):
            self._p.files.remove(reservation.job_id)
        if reservation.stage is not Stage.MISSED:  # that was said already
            self._say("slice_freed", reservation, items=items)

    # telling

    def show(self, reservation: Reservation) -> None:
        """Write the file that the job's tasks read."""
        match reservation.stage:
            case Stage.RESERVED | Stage.MAKING:
                if not any(each.began_s is not None for each in self._p.book.of_job(reservation.job_id)):
                    self._p.files.wait(reservation.job_id, reservation.uid)
            case Stage.LIVE:
                self._p.files.give(reservation.job_id, reservation.uid, self.slots(reservation), reservation.asked)
            case Stage.MISSED:
                self._p.files.miss(reservation.job_id, reservation.uid, reservation.why)
            case Stage.FREEING:
                pass

    def slots(self, reservation: Reservation) -> list[dict[str, str]]:
        """The environment of each slot: task LOCALID gets slot LOCALID mod their number."""
        slots = [self._environment(reservation, number) for number in range(len(reservation.items))]
        devices = ",".join(slot.get("CUDA_VISIBLE_DEVICES", "") for slot in slots)
        return [slot | {"SLURMEXT_SLICES": devices} for slot in slots]

    def _environment(self, reservation: Reservation, number: int) -> dict[str, str]:
        item = reservation.items[number]
        if not item.is_mig:
            return self._p.shares.environment(reservation, number)
        made = self._p.book.at(item.gpu, item.start or 0)
        uuid = made.uuid if made is not None and made.reservation == reservation.reservation else ""
        return {"CUDA_VISIBLE_DEVICES": uuid, "NVIDIA_VISIBLE_DEVICES": uuid, "SLURMEXT_SLICE": item.profile or ""}

    def _items(self, reservation: Reservation) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for item in reservation.items:
            made = self._p.book.at(item.gpu, item.start or 0) if item.is_mig else None
            items.append(item.fields() | ({"uuid": made.uuid} if made is not None else {}))
        return items

    def _say(self, event: str, about: Reservation | ReserveSlices, **detail: object) -> None:
        self._p.events.add(event, job_id=about.job_id, uid=about.uid, reservation=about.reservation,
                           job=about.job, **detail)  # fmt: skip


def _waits_as_task(reservation: Reservation) -> bool:
    return reservation.stage is Stage.RESERVED and "_" in reservation.job
