"""Journal against driver and Slurm: what a crash left half done is finished or taken back. Foreign things stay."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slurmext.agent.slices.records import Piece, Stage
from slurmext.errors import GpuDriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from slurmext.agent.slices.keeper import Parts, SliceKeeper
    from slurmext.agent.slices.records import Made, Reservation

log = logging.getLogger(__name__)

SETTLE_S = 60.0
"""A job younger than this may have no process yet."""
ASK_AGAIN_S = 300.0
"""A node of a job whose steps run elsewhere has no process of it: Slurm is not asked of it too often."""
INTERRUPTED = "the agent was restarted while the slices were made"


class Reconciler:
    """`begin` once at the start, before anything else happens; `again` every now and then.

    `boot` is the node's boot id: no job outlives one. `with_processes` tells the jobs that have processes here,
    `in_slurm` those that Slurm runs here (None: no answer).
    """

    def __init__(
        self,
        parts: Parts,
        keeper: SliceKeeper,
        *,
        with_processes: Callable[[], Collection[int]],
        in_slurm: Callable[[], Collection[int] | None],
        boot: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._p, self._keeper = parts, keeper
        self._with_processes, self._in_slurm, self._now = with_processes, in_slurm, now
        self._boot = boot
        self._asked_s: dict[str, float] = {}

    def begin(self) -> None:
        """Nothing is being made now: every intent in the journal is of an agent that is no more."""
        if self._p.book.boot not in {"", self._boot}:
            for reservation in self._p.book.reservations():
                if reservation.began_s is not None:
                    log.info("job %s ended with the node's last boot", reservation.job)
                    self._keeper.epilog(reservation.job_id)
        if self._boot and self._boot != self._p.book.boot:
            self._p.book.set_boot(self._boot)
        for reservation in self._p.book.reservations():
            if reservation.stage is Stage.MAKING:
                self._interrupted(reservation)
        for made in self._p.book.made():
            if made.piece is Piece.CREATING:
                self._p.maker.destroy(made)
        for share in self._p.book.shares():
            if share.piece is Piece.CREATING:
                self._p.shares.remove(share)
        self._p.shares.sweep()
        self._p.files.retain([each.job_id for each in self._p.book.reservations()])
        for reservation in self._p.book.reservations():
            self._keeper.show(reservation)
        self.again()

    def again(self) -> None:
        """Find what is gone, what nobody has, what could not be freed, and jobs that are over."""
        self._compare()
        self._keeper.tend()
        self.free_unowned()
        self._end_dead_jobs()

    def _interrupted(self, reservation: Reservation) -> None:
        missed = replace(reservation, stage=Stage.MISSED, why=INTERRUPTED)
        self._p.book.leave(missed)
        self._p.events.add("slice_missed", job_id=missed.job_id, uid=missed.uid, job=missed.job,
                           reservation=missed.reservation, reason=INTERRUPTED)  # fmt: skip

    def _compare(self) -> None:
        """Forget instances that are gone: the node lost its power, or somebody destroyed them."""
        for gpu in dict.fromkeys(made.gpu for made in self._p.book.made()):
            with self._p.maker.lock(gpu):
                try:
                    there = {instance.uuid for instance in self._p.driver.instances(gpu)}
                except GpuDriverError as error:
                    log.warning("GPU %s: %s; its slices are compared later", gpu, error)
                    continue
                for made in self._p.book.made(gpu=gpu):
                    if made.piece in {Piece.BUSY, Piece.WARM} and made.uuid not in there:
                        self._lost(made)

    def _lost(self, made: Made) -> None:
        reservation = self._p.book.reservation(made.reservation)
        log.warning("%s at %d of GPU %s is gone%s", made.profile, made.start, made.gpu,
                    f", job {reservation.job} had it" if reservation else "")  # fmt: skip
        # Its GPU instance may have stayed without a compute instance.
        self._p.maker.destroy(made)
        if reservation is not None and reservation.stage is Stage.LIVE:
            self._p.events.add("slice_lost", job_id=reservation.job_id, uid=reservation.uid,
                               reservation=reservation.reservation, gpu=made.gpu, profile=made.profile,
                               start=made.start, uuid=made.uuid)  # fmt: skip

    def free_unowned(self) -> None:
        """Take away instances and shares that belong to no reservation."""
        known = {each.reservation for each in self._p.book.reservations()}
        for made in self._p.book.made():
            if made.piece is Piece.DESTROYING:
                self._p.maker.destroy(made)
            elif made.piece is Piece.BUSY and made.reservation not in known:
                self._p.maker.retire(made, job_id=0, keep=False)
        for share in self._p.book.shares():
            if share.piece is not Piece.CREATING and (
                share.piece is Piece.DESTROYING or share.reservation not in known
            ):
                self._p.shares.remove(share)

    def _end_dead_jobs(self) -> None:
        """A job without processes that Slurm does not run here any more is over: its epilog was lost."""
        old = [each for each in self._p.book.reservations() if each.stage in {Stage.LIVE, Stage.MISSED}
               and self._now() - (each.began_s or 0) > SETTLE_S]  # fmt: skip
        names = {each.reservation for each in old}
        self._asked_s = {name: at_s for name, at_s in self._asked_s.items() if name in names}
        if not old:
            return
        alive = set(self._with_processes())
        doubtful = [each for each in old if each.job_id not in alive
                    and self._now() - self._asked_s.get(each.reservation, 0) > ASK_AGAIN_S]  # fmt: skip
        if not doubtful or (running := self._in_slurm()) is None:
            return
        for each in doubtful:
            self._asked_s[each.reservation] = self._now()
            if each.job_id not in set(running):
                log.info("job %s is over and its epilog never came", each.job)
                self._keeper.epilog(each.job_id)
