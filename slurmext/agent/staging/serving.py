"""Pushes a model to one receiver: what it wants, as soon as it is here and checked, in the order of the manifest."""

from __future__ import annotations

import threading
from heapq import heappop, heappush
from typing import Final

from slurmext.staging.store.staged import StagedModel
from slurmext.staging.transport import LinkLost, Outlet, Run

BEAT_S: Final = 0.5
MOST_RUN: Final = 8


class Serving:
    """One receiver's needs. `run` returns when the receiver leaves; raises LinkLost when it is lost."""

    def __init__(self, outlet: Outlet, staged: StagedModel) -> None:
        self.outlet = outlet
        self.staged = staged
        self._wanted = bytearray(staged.manifest.chunk_count)
        self._held = bytearray(staged.manifest.chunk_count)
        self._due: list[int] = []  # ranks
        self._news = threading.Condition()
        self._ended = False

    def run(self) -> None:
        """Push until the receiver has what it wants and hangs up."""
        asks = threading.Thread(target=self._listen, name="staging-asks", daemon=True)
        for index in self.staged.follow(self._arrived):
            self._held[index] = 1
        try:
            asks.start()
            while (run := self._next()) is not None:
                if run.count:
                    self.outlet.push(run)
                else:
                    self.outlet.beat(self.staged.ready_chunks)
                    if self.staged.fault is not None:
                        raise LinkLost(f"{self.staged.key}: {self.staged.fault}")
        finally:
            self.staged.unfollow(self._arrived)

    def _arrived(self, index: int) -> None:
        with self._news:
            self._held[index] = 1
            if self._wanted[index]:
                heappush(self._due, self.staged.manifest.rank(index))
                self._news.notify()

    def _listen(self) -> None:
        try:
            while (request := self.outlet.requests()) is not None:
                with self._news:
                    for begin, end in request.ranges:
                        for index in range(begin, end):
                            if self._wanted[index] == request.drop:
                                self._wanted[index] = not request.drop
                                if not request.drop and self._held[index]:
                                    heappush(self._due, self.staged.manifest.rank(index))
                    self._news.notify()
        except LinkLost:
            pass  # the pushing thread notices too
        finally:
            with self._news:
                self._ended = True
                self._news.notify()

    def _next(self) -> Run | None:
        """What to push next; a run of none when it is time for a sign of life, None when the receiver has left."""
        with self._news:
            while not self._ended:
                while self._due:
                    first = self.staged.manifest.of_rank(heappop(self._due))
                    if not self._wanted[first]:
                        continue
                    self._wanted[first] = 0
                    return self._extended(first)
                if not self._news.wait(BEAT_S):
                    return Run(0, 0)
        return None

    def _extended(self, first: int) -> Run:
        manifest = self.staged.manifest
        limit = min(MOST_RUN, manifest.starts[manifest.chunk(first).file + 1] - first)
        count = 1
        while count < limit and self._due and manifest.of_rank(self._due[0]) == first + count:
            heappop(self._due)
            if not self._wanted[first + count]:
                break
            self._wanted[first + count] = 0
            count += 1
        return Run(first, count, len(self._due))
