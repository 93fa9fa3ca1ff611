"""Agents that are all away: what a command that only looks works with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from slurmext.model.slice_state import SliceRecord
from slurmext.model.slicing import GpuUse


class NoAgents:
    """Implements `ports.SliceAgents`."""

    def connected(self) -> Collection[str]:
        """None."""
        return ()

    def reserve(
        self, slices: Sequence[SliceRecord], *, raw_id: str, uid: int, restarts: int, asked: Mapping[str, str]
    ) -> bool:
        """Not told."""
        del slices, raw_id, uid, restarts, asked
        return False

    def withdraw(self, node: str, reservation: str) -> bool:
        """Not told."""
        del node, reservation
        return False

    def free_warm(self, node: str, gpu: str, profile: str, start: int) -> bool:
        """Not told."""
        del node, gpu, profile, start
        return False

    def set_use(self, node: str, gpu: str, use: GpuUse) -> bool:
        """Not told."""
        del node, gpu, use
        return False
