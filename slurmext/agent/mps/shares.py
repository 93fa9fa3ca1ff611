"""MPS shares of jobs: made in the prolog, gone after the epilog, mended when their daemon dies in between."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slurmext.agent.mps import folders
from slurmext.agent.mps.control import MpsError, ShareSetup, daemons_of, end_process, pid_in, started
from slurmext.agent.slices.maker import Maker, Miss
from slurmext.agent.slices.records import Piece, Reservation, ShareMade
from slurmext.errors import DeviceAccessError, SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slurmext.agent.mps.control import MpsControl
    from slurmext.agent.slices.journal import Book
    from slurmext.ports import DeviceAccess

log = logging.getLogger(__name__)

QUIT_S = 2.0
"""A daemon that was told to quit and whose clients are out needs no longer."""


class Shares:
    """`base` is the folder of the shares' folders. Locks are the maker's: one thread at a time on a GPU."""

    def __init__(
        self,
        book: Book,
        maker: Maker,
        control: MpsControl,
        access: DeviceAccess,
        *,
        base: Path,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._book, self._maker, self._control, self._access = book, maker, control, access
        self._base, self._now = base, now

    def make(self, reservation: Reservation, number: int, *, wanted: Callable[[], bool]) -> ShareMade:
        """Start the daemon of an item, for the reservation's user alone. Raises Miss."""
        item = reservation.items[number]
        with self._maker.lock(item.gpu):
            if not wanted():
                raise Miss("the job ended while its share was made")
            card = self._maker.card(item.gpu)
            share = ShareMade(key=folders.new_key(), gpu=item.gpu, share_pct=item.share_pct or 0,
                              memory_mib=item.memory_mib or 0, uid=reservation.uid, number=number,
                              reservation=reservation.reservation, piece=Piece.CREATING, at_s=self._now())  # fmt: skip
            self._book.keep(share)
            try:
                folder = folders.make(self._base, share.key, share.uid)
                pid = self._control.start(self._setup(share))
                share = replace(share, piece=Piece.BUSY, pid=pid, ticks=started(pid))
                self._book.keep(share)
                self._access.give(card, None, uid=share.uid, job_id=reservation.job_id)
                folders.open_to(folder, share.uid)
            except (SlurmextError, OSError) as error:
                self.remove(share)
                raise Miss(f"a share of GPU {card.minor}: {error}") from error
            return share

    def environment(self, reservation: Reservation, number: int) -> dict[str, str]:
        """What a task of the job gets for this item. The limits are there for programs to read; the server has them."""
        share = next((each for each in self._of(reservation) if each.number == number), None)
        if share is None:
            return {}
        setup = self._setup(share)
        return {
            "CUDA_VISIBLE_DEVICES": share.gpu,
            "NVIDIA_VISIBLE_DEVICES": share.gpu,
            "CUDA_MPS_PIPE_DIRECTORY": str(setup.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(setup.logs),
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(share.share_pct),
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={share.memory_mib}M",
            "SLURMEXT_SLICE": f"{share.share_pct}%,mem={share.memory_mib}M",
        }

    def remove(self, share: ShareMade) -> bool:
        """Take its clients out, end its daemon and remove its folder; False when that has to be tried again."""
        with self._maker.lock(share.gpu):
            share = replace(share, piece=Piece.DESTROYING)
            self._book.leave(share)
            gone = self._end(share)
            reservation = self._book.reservation(share.reservation)
            self._take_back(share, 0 if reservation is None else reservation.job_id)
            if gone:
                folders.remove(self._base, share.key)
                self._book.drop_share(share)
            return gone

    def mend(self) -> list[ShareMade]:
        """Start daemons again that died, or that a crashed client left in a fault, while their jobs go on: only those;
        returns them.
        """
        mended = []
        for share in self._book.shares():
            if share.piece is Piece.BUSY and not self._is_well(share):
                with self._maker.lock(share.gpu):
                    try:
                        if (current := self._current(share)) is None:
                            continue
                        share = current  # noqa: PLW2901
                        self._end(share)
                        pid = self._control.start(self._setup(share))
                        self._book.leave(replace(share, pid=pid, ticks=started(pid)))
                        mended.append(share)
                    except MpsError as error:
                        log.warning("the daemon of a share of GPU %s is gone: %s", share.gpu, error)
        return mended

    def sweep(self) -> int:
        """Remove what is left of shares that nobody knows, their daemons first; returns how many."""
        known = {share.key for share in self._book.shares()}
        unknown = [key for key in folders.left(self._base) if key not in known]
        for key in unknown:
            lost = ShareMade(key=key, gpu="", share_pct=1, memory_mib=0, uid=0, reservation="", number=0,
                             piece=Piece.DESTROYING, at_s=self._now())  # fmt: skip
            if self._end(lost):
                folders.remove(self._base, key)
        return len(unknown)

    def servers(self, share: ShareMade) -> list[int]:
        """Pids of the share's daemon and what it started."""
        return [share.pid, *daemons_of(share.pid)] if share.pid and started(share.pid) == share.ticks else []

    def terminate_client(self, share: ShareMade, client: int) -> None:
        """Take one client out of the share's server; what cannot be done is logged."""
        setup = self._setup(share)
        try:
            for server in [] if self._control.speaks_v3() else self._control.servers(setup):
                if client in self._control.clients(setup, server):
                    self._control.terminate_client(setup, server, client)
        except MpsError as error:
            log.info("%s", error)

    def _is_well(self, share: ShareMade) -> bool:
        if started(share.pid) != share.ticks:
            return False
        try:
            return self._control.is_well(self._setup(share))
        except MpsError:
            return started(share.pid) == share.ticks

    def _current(self, share: ShareMade) -> ShareMade | None:
        """As it is now that the GPU is ours, if its job still has it."""
        found = next((each for each in self._book.shares(gpu=share.gpu) if each.key == share.key), None)
        return found if found is not None and found.piece is Piece.BUSY else None

    def _of(self, reservation: Reservation) -> list[ShareMade]:
        return self._book.shares(reservation=reservation.reservation)

    def _setup(self, share: ShareMade) -> ShareSetup:
        return ShareSetup(folder=self._base / share.key, device=share.gpu, uid=share.uid, share_pct=share.share_pct,
                          memory_mib=share.memory_mib)  # fmt: skip

    def _end(self, share: ShareMade) -> bool:
        """End exactly this share's daemon and servers. A client that died in the middle may hold its server up: clients
        are taken out first, then the daemon is told to quit, then it is ended.
        """
        setup = self._setup(share)
        pid = pid_in(setup) or share.pid
        ticks = started(pid) if pid_in(setup) else share.ticks
        if not pid or not ticks or started(pid) != ticks:
            return self._end_orphans(setup)
        children = [(child, started(child)) for child in daemons_of(pid)]
        try:
            if not self._control.speaks_v3():
                for server in self._control.servers(setup):
                    for client in self._control.clients(setup, server):
                        self._control.terminate_client(setup, server, client)
            self._control.quit(setup)
        except MpsError as error:
            log.info("%s", error)
        until_s = time.monotonic() + QUIT_S
        while time.monotonic() < until_s and started(pid) == ticks:
            time.sleep(0.01)
        gone = [end_process(child, child_ticks) for child, child_ticks in children if child_ticks]
        return all([*gone, end_process(pid, ticks)]) and self._end_orphans(setup)

    def _end_orphans(self, setup: ShareSetup) -> bool:
        """Servers outlive a daemon that was killed; they are known by the pipe directory in their environment."""
        gone = [end_process(pid, started(pid)) for pid in _with_pipe(str(setup.pipe))]
        return all(gone)

    def _take_back(self, share: ShareMade, job_id: int) -> None:
        try:
            self._access.take_back(self._maker.card(share.gpu), None, job_id=job_id)
        except (DeviceAccessError, Miss) as error:
            log.warning("GPU %s: %s", share.gpu, error)


def _with_pipe(pipe: str, proc: str = "/proc") -> list[int]:
    """MPS programs whose environment names this pipe directory. Clients have it too, so the name counts as well."""
    found = []
    wanted = f"CUDA_MPS_PIPE_DIRECTORY={pipe}".encode()
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            with open(f"{proc}/{name}/cmdline", "rb") as file:  # noqa: PTH123
                if b"nvidia-cuda-mps-" not in file.read(4096):
                    continue
            with open(f"{proc}/{name}/environ", "rb") as file:  # noqa: PTH123
                if wanted in file.read(1 << 20).split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue
    return found
