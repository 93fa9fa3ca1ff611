"""The slices of one node as one thing: what the agent starts, stops, orders and asks."""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurmext.adapters.tcp.orders import FreeWarmSlice, Order, ReserveSlices, SetGpuUse, WithdrawSlices
from slurmext.agent.mps.control import MpsControl
from slurmext.agent.mps.police import Police
from slurmext.agent.mps.shares import Shares
from slurmext.agent.slices.inventory import inventory
from slurmext.agent.slices.journal import Book
from slurmext.agent.slices.keeper import Parts, SliceKeeper
from slurmext.agent.slices.leftovers import Leftovers
from slurmext.agent.slices.maker import Maker, WarmPool
from slurmext.agent.slices.reconcile import Reconciler
from slurmext.agent.slices.records import Piece, Stage
from slurmext.agent.slices.taskfile import TaskFiles
from slurmext.agent.slices.usage import Usage
from slurmext.agent.slices.uses import Uses
from slurmext.errors import GpuDriverError, SlurmextError
from slurmext.model.slicing import GpuUse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from slurmext.agent.spool import EventSpool
    from slurmext.config.site import SlicesSite
    from slurmext.ports import DeviceAccess, SliceDriver

log = logging.getLogger(__name__)

TICK_S = 0.5
WATCH_S = 2.0
"""How often memory of shares is looked at, and what could not be freed is tried again."""
MEND_S = 10.0
COMPARE_S = 30.0
FRESH_S = 30.0
"""A job younger than this is sampled at every look: many are short."""
QUIET_S = 600.0
"""A node without GPUs is asked for them so often."""


class Slices:
    """`run_dir` and `spool_dir` are the agent's; `in_slurm` tells the jobs that Slurm runs here (None: no answer)."""

    def __init__(
        self,
        site: SlicesSite,
        *,
        node: str,
        run_dir: Path,
        spool_dir: Path,
        events: EventSpool,
        driver: SliceDriver,
        access: DeviceAccess,
        with_processes: Callable[[], Collection[int]],
        in_slurm: Callable[[], Collection[int] | None],
        name_of: Callable[[int], str | None] = lambda _job_id: None,
        sample_s: float = 10.0,
    ) -> None:
        self._events, self._driver, self._sample_s = events, driver, sample_s
        self._admit = access.admit
        self._changed = threading.Event()
        book = self._book = Book(spool_dir / "slices.jsonl")
        maker = self._maker = Maker(book, driver, access, pool=WarmPool(keep_s=site.warm_s, most=site.warm_most))
        control = MpsControl(site.mps_control, protocol=site.mps_protocol)
        shares = self._shares = Shares(book, maker, control, access, base=run_dir / f"agent-{node}.mps")
        parts = Parts(book=book, maker=maker, shares=shares, driver=driver, events=events,
                      files=TaskFiles(run_dir / f"agent-{node}.slices"))  # fmt: skip
        self.keeper = SliceKeeper(parts, changed=self._changed.set, name_of=name_of)
        self._uses = Uses(book, maker, driver, events, changed=self._changed.set)
        self._police = Police(book, shares, driver, events, ends=site.share_over_memory == "end")
        self._usage = Usage(book, maker, driver, events)
        self._leftovers = Leftovers(book, driver)
        self._reconciler = Reconciler(parts, self.keeper, boot=_boot_id(), with_processes=with_processes,
                                      in_slurm=in_slurm)  # fmt: skip
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._told: list[dict[str, Any]] | None = None
        self._due_s: dict[str, float] = {}
        self._threads = [threading.Thread(target=target, name=name, daemon=True)
                         for name, target in (("slices", self._tend), ("orders", self._obey_all))]  # fmt: skip

    def begin(self) -> None:
        """Put right what a crash left, before hooks are answered."""
        try:
            self._uses.restore()
            self._reconciler.begin()
        except Exception:
            log.exception("slices were not put right; tried again in %g s", COMPARE_S)

    def start(self) -> None:
        """Carry out orders and look after slices in the background."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; slices of running jobs stay."""
        self._stop.set()
        self._orders.put(None)
        self.keeper.stop()
        for thread in self._threads:
            thread.join(2)
        self._driver.release()

    def described(self, uid: int | None) -> list[dict[str, Any]]:
        """Reservations and slices of that user's jobs, of everybody's for None."""
        return [
            {"job_id": each.job_id, "job": each.job, "uid": each.uid, "reservation": each.reservation,
             "stage": each.stage.value, "why": each.why, "items": [item.fields() for item in each.items]}
            for each in self._book.reservations()
            if uid in {None, each.uid}
        ]  # fmt: skip

    def sliced_minors(self) -> set[int]:
        """Minor numbers of the GPUs that are cut or shared: their placeholder jobs use nothing."""
        sliced = {use.gpu for use in self._book.uses() if use.use in {GpuUse.MIG, GpuUse.SHARED}}
        return {card.minor for card in self._maker.known() if card.uuid in sliced} if sliced else set()

    def announce(self) -> None:
        """A controller connected: tell it everything."""
        self._told = None
        self._changed.set()

    def obey(self, order: Order) -> None:
        """Carry the order out soon, in the order in which they came."""
        self._orders.put(order)

    def prolog(self, job_id: int, uid: int, *, restarts: int | None, wanted: bool) -> str | None:
        """See SliceKeeper.prolog."""
        return self.keeper.prolog(job_id, uid, restarts=restarts, wanted=wanted)

    def epilog(self, job_id: int) -> None:
        """See SliceKeeper.epilog."""
        self.keeper.epilog(job_id)

    def admit(self, job_id: int, uid: int, pid: int) -> str:
        """Hold the job of a process to its slices, in its cgroup. Raises SlurmextError.

        Ownership of the device nodes keeps other users out already; this keeps the job itself out of the others' GPUs.
        """
        live = next((each for each in self._book.of_job(job_id) if each.stage is Stage.LIVE), None)
        if live is None or live.uid != uid:
            raise SlurmextError(f"job {job_id} of uid {uid} has no slices here")
        devices = []
        for item in live.items:
            made = self._book.at(item.gpu, item.start or 0) if item.is_mig else None
            devices.append((self._maker.card(item.gpu), made.instance if made else None))
        return self._admit(pid, devices, job_id=job_id)

    # threads

    def _obey_all(self) -> None:
        while (order := self._orders.get()) is not None and not self._stop.is_set():
            try:
                self._obey(order)
            except Exception:
                log.exception("the order %s was not carried out", order.line())

    def _obey(self, order: Order) -> None:
        match order:
            case ReserveSlices():
                self.keeper.reserve(order)
            case WithdrawSlices():
                self.keeper.withdraw(order.reservation)
            case FreeWarmSlice():
                self._maker.drop_warm(order.gpu, order.profile, order.start)
                self.announce()
            case SetGpuUse():
                self._uses.set(order)
            case _:
                log.warning("not an order for slices: %s", order.line())

    def _tend(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self.look()
            except Exception:
                log.exception("looking after slices failed; tried again")
                self._stop.wait(WATCH_S)

    def look(self) -> None:
        """One round of what is due."""
        if self._is_due("watch", WATCH_S):
            self._watch()
        if self._is_due("compare", COMPARE_S) and (self._book.made() or self._book.reservations()):
            self._reconciler.again()
            self._changed.set()
        if self._is_due("age", COMPARE_S) and self._maker.age():
            self._changed.set()
        if self._changed.is_set() or self._is_due("tell", COMPARE_S if self._told else QUIET_S):
            self._changed.clear()
            self._tell()

    def _watch(self) -> None:
        reservations = self._book.reservations()
        if any(each.stage in {Stage.FREEING, Stage.MISSED} for each in reservations):
            self._leftovers.end()
            self.keeper.tend()
        if any(made.piece is Piece.DESTROYING for made in self._book.made()):
            self._reconciler.free_unowned()
        live = [each for each in reservations if each.stage is Stage.LIVE]
        if self._book.shares() and self._is_due("mend", MEND_S):
            self._shares.mend()
        uses = self._police.look() if self._book.shares() else []
        fresh = any(time.time() - (each.began_s or 0) < FRESH_S for each in live)
        if self._is_due("sample", 0.0 if fresh else self._sample_s):
            self._usage.look(uses)

    def _tell(self) -> None:
        try:
            gpus = inventory(self._book, self._maker, self._driver)
        except GpuDriverError as error:
            if self._told is None or self._told:
                log.info("no GPUs are seen for slices: %s", error)
            gpus = []
        if gpus != self._told and (gpus or self._told):
            unused = [each.reservation for each in self._book.reservations() if each.stage is Stage.RESERVED]
            self._events.add("gpus", gpus=gpus, reserved=unused)
        self._told = gpus
        if not self._book.made() and all(use.use is GpuUse.WHOLE for use in self._book.uses()):
            self._driver.release()

    def _is_due(self, what: str, every_s: float) -> bool:
        now_s = time.monotonic()
        if now_s - self._due_s.get(what, -1e9) < every_s:
            return False
        self._due_s[what] = now_s
        return True


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
