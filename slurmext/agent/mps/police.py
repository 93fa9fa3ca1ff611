"""Memory of MPS shares, over all processes of a job: MPS itself limits each process alone."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmext.agent.jobs import job_of_process
from slurmext.agent.slices.records import Piece, Stage
from slurmext.errors import GpuDriverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurmext.agent.mps.shares import Shares
    from slurmext.agent.slices.journal import Book
    from slurmext.agent.slices.records import Reservation, ShareMade
    from slurmext.agent.spool import EventSpool
    from slurmext.model.mig import GpuProcess
    from slurmext.ports import SliceDriver

log = logging.getLogger(__name__)

LOOKS = 2
"""So often a job must be seen above its limit before a process of it is ended: it may be about to free memory."""
SLACK_MIB = 64
"""What a context takes that no program asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareUse:
    """Memory that a job's processes use on a GPU, against what its shares of that GPU allow."""

    reservation: Reservation
    gpu: str
    used_mib: int
    limit_mib: int
    processes: tuple[GpuProcess, ...]


class Police:
    """`look` once in a while. With `ends` a job that stays above its limit loses its largest process, else it is only
    told. Nobody else's processes are ever touched.
    """

    def __init__(
        self,
        book: Book,
        shares: Shares,
        driver: SliceDriver,
        events: EventSpool,
        *,
        ends: bool = True,
        job_of: Callable[[int], int | None] = job_of_process,
    ) -> None:
        self._book, self._shares, self._driver, self._events = book, shares, driver, events
        self._ends, self._job_of = ends, job_of
        self._over: dict[tuple[str, str], int] = {}

    def look(self) -> list[ShareUse]:
        """What every live share is used for; acts on those that use too much."""
        uses = self._uses()
        over = {(use.reservation.reservation, use.gpu): use for use in uses if use.used_mib > use.limit_mib + SLACK_MIB}
        for key in [key for key in self._over if key not in over]:
            del self._over[key]
        for key, use in over.items():
            self._over[key] = self._over.get(key, 0) + 1
            if self._over[key] == 1:
                self._say(use, "told")
            elif self._ends and self._over[key] > LOOKS:
                self._end_largest(use)
                self._over[key] = 1  # it may be enough
        return uses

    def _uses(self) -> list[ShareUse]:
        shares: defaultdict[str, list[ShareMade]] = defaultdict(list)
        for share in self._book.shares():
            if share.piece is Piece.BUSY:
                shares[share.gpu].append(share)
        uses: list[ShareUse] = []
        for gpu, here in shares.items():
            try:
                processes = self._driver.processes(gpu)
            except GpuDriverError as error:
                log.warning("memory of shares is not watched: %s", error)
                continue
            jobs = {process.pid: self._job_of(process.pid) for process in processes}
            for name in dict.fromkeys(share.reservation for share in here):
                reservation = self._book.reservation(name)
                if reservation is not None and reservation.stage is Stage.LIVE:
                    own = [share for share in here if share.reservation == name]
                    uses.append(self._use(reservation, gpu, own, processes, jobs))
        return uses

    def _use(
        self,
        reservation: Reservation,
        gpu: str,
        shares: list[ShareMade],
        processes: tuple[GpuProcess, ...],
        jobs: dict[int, int | None],
    ) -> ShareUse:
        servers = {pid for share in shares for pid in self._shares.servers(share)}
        own = tuple(each for each in processes if jobs[each.pid] == reservation.job_id and each.pid not in servers)
        # Drivers count a client's memory as the client's, the server's, or both.
        used = max(sum(each.memory_mib or 0 for each in group)
                   for group in (own, [each for each in processes if each.pid in servers]))  # fmt: skip
        limit = sum(share.memory_mib for share in shares)
        return ShareUse(reservation=reservation, gpu=gpu, used_mib=used, limit_mib=limit, processes=own)

    def _end_largest(self, use: ShareUse) -> None:
        if not use.processes:
            return
        largest = max(use.processes, key=lambda each: each.memory_mib or 0)
        try:
            handle = os.pidfd_open(largest.pid)
        except OSError:
            return
        try:
            if self._job_of(largest.pid) != use.reservation.job_id:
                return
            # Out of the server first: a client killed in its middle may harm it (MPS documentation).
            for share in self._book.shares(gpu=use.gpu, reservation=use.reservation.reservation):
                self._shares.terminate_client(share, largest.pid)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            return
        finally:
            os.close(handle)
        self._say(use, "ended", pid=largest.pid)

    def _say(self, use: ShareUse, action: str, **detail: object) -> None:
        log.warning("job %d uses %d MiB of the %d MiB of its share: %s", use.reservation.job_id, use.used_mib,
                    use.limit_mib, action)  # fmt: skip
        self._events.add("slice_over", job_id=use.reservation.job_id, uid=use.reservation.uid, gpu=use.gpu,
                         reservation=use.reservation.reservation, memory_mib=use.limit_mib, used_mib=use.used_mib,
                         action=action, at_s=time.time(), **detail)  # fmt: skip
