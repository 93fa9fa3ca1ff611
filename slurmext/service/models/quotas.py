"""How much users may register and have in nodes' memory. Root's models, as a site's common ones, are not limited."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.errors import SlurmextError
from slurmext.model.staged_model import ModelUsage

_GIB = 1 << 30


class QuotaExceeded(SlurmextError):
    """A user would have more models than the site allows; remove or unpin one, or ask for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bytes per user; None: no limit."""

    registered_bytes: int | None = None
    node_bytes: int | None = None

    @classmethod
    def of_gib(cls, registered_gib: float | None, node_gib: float | None) -> Quotas:
        """From the site file's numbers."""
        return cls(
            registered_bytes=None if registered_gib is None else int(registered_gib * _GIB),
            node_bytes=None if node_gib is None else int(node_gib * _GIB),
        )

    def check_registered(self, uid: int, usage: ModelUsage, size: int) -> None:
        """Raises QuotaExceeded when `size` more registered bytes are too many for this user."""
        limit = self.registered_bytes
        if limit is not None and uid != 0 and usage.registered_bytes + size > limit:
            raise QuotaExceeded(
                f"you have {gib(usage.registered_bytes)} of models registered and may have {gib(limit)}; this one has"
                f" {gib(size)}: 'slurmext model remove' one that nobody needs"
            )

    def over_on(self, uid: int, usage: ModelUsage, node: str, size: int) -> bool:
        """Whether `size` more bytes in this node's memory are too many for the models of this user."""
        limit = self.node_bytes
        return limit is not None and uid != 0 and usage.staged_bytes.get(node, 0) + size > limit


def gib(count: int) -> str:
    """Bytes for people."""
    if count < _GIB:
        return f"{count / (1 << 20):.3g} MiB"
    return f"{count / _GIB:.3g} GiB" if count < 1000 * _GIB else f"{count / (1024 * _GIB):.3g} TiB"
