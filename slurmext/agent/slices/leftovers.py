"""What an ended job's user still has running on a slice that was the job's alone: it holds the slice up, and is ended.

Slurm kills a job's processes before the epilog, but with proctrack/linuxproc not those that became daemons.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from slurmext.agent.jobs import job_of_process
from slurmext.agent.slices.records import Stage
from slurmext.errors import GpuDriverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurmext.agent.slices.journal import Book
    from slurmext.agent.slices.records import Reservation
    from slurmext.ports import SliceDriver

log = logging.getLogger(__name__)

PATIENCE_S = 5.0


class Leftovers:
    """`end` ends what is left on slices that have been waiting for PATIENCE_S to be freed."""

    def __init__(
        self,
        book: Book,
        driver: SliceDriver,
        *,
        now: Callable[[], float] = time.monotonic,
        job_of: Callable[[int], int | None] = job_of_process,
    ) -> None:
        self._book, self._driver, self._now, self._job_of = book, driver, now, job_of
        self._since_s: dict[str, float] = {}

    def end(self) -> int:
        """Returns how many processes were ended."""
        freeing = {each.reservation: each for each in self._book.reservations() if each.stage is Stage.FREEING}
        self._since_s = {name: self._since_s.get(name, self._now()) for name in freeing}
        late = [each for name, each in freeing.items() if self._now() - self._since_s[name] >= PATIENCE_S]
        return sum(self._end(each) for each in late)

    def _end(self, reservation: Reservation) -> int:
        ended = 0
        for made in self._book.made(reservation=reservation.reservation):
            try:
                processes = self._driver.processes(made.gpu, made.instance)
            except GpuDriverError:
                continue
            ended += sum(self._kill(process.pid, reservation) for process in processes)
        return ended

    def _kill(self, pid: int, reservation: Reservation) -> bool:
        """Only the job's own: of its user, and of no other job. Root's are ended only below the job's slurmstepd."""
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            job_id = self._job_of(pid)
            uid = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
            own = job_id == reservation.job_id or (job_id is None and uid == reservation.uid and uid != 0)
            if own:
                log.warning("job %s is over; its process %d still had its slice and is ended", reservation.job, pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            return False
        finally:
            os.close(handle)
        return own
