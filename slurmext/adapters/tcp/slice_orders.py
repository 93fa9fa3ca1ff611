"""What the controller wants of slices, as orders to agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.adapters.tcp.orders import FreeWarmSlice, ReserveSlices, SetGpuUse, SliceItem, WithdrawSlices

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from slurmext.adapters.tcp.agent_server import AgentServer
    from slurmext.adapters.tcp.orders import Order
    from slurmext.model.slice_state import SliceRecord
    from slurmext.model.slicing import GpuUse


class SliceOrders:
    """Implements `ports.SliceAgents`."""

    def __init__(self, server: Callable[[], AgentServer]) -> None:
        """`server` gives the one agents are connected to, which is made later than this."""
        self._server = server

    def connected(self) -> Collection[str]:
        """Nodes whose agents are connected."""
        return {agent.node for agent in self._server().connected()}

    def reserve(
        self, slices: Sequence[SliceRecord], *, raw_id: str, uid: int, restarts: int, asked: Mapping[str, str]
    ) -> bool:
        """Have slices of one job on one node made when it starts."""
        first = slices[0]
        items = tuple(
            SliceItem(gpu=each.gpu, profile=each.profile, profile_id=each.profile_id, start=each.start,
                      share_pct=each.share_pct, memory_mib=each.memory_mib)
            for each in slices
        )  # fmt: skip
        base = raw_id if raw_id.isdecimal() else first.job.job_id.partition("_")[0]
        order = ReserveSlices(
            reservation=first.reservation, job_id=int(base), job=first.job.job_id, uid=uid, items=items,
            restarts=restarts, asked=dict(asked),
        )  # fmt: skip
        return self._tell(first.node, order)

    def withdraw(self, node: str, reservation: str) -> bool:
        """Forget a reservation, and free what was made for it."""
        return self._tell(node, WithdrawSlices(reservation=reservation))

    def free_warm(self, node: str, gpu: str, profile: str, start: int) -> bool:
        """Destroy an instance that nobody has."""
        return self._tell(node, FreeWarmSlice(gpu=gpu, profile=profile, start=start))

    def set_use(self, node: str, gpu: str, use: GpuUse) -> bool:
        """Make a GPU that nobody uses ready for this use."""
        return self._tell(node, SetGpuUse(gpu=gpu, use=use))

    def _tell(self, node: str, order: Order) -> bool:
        return self._server().order([node], order) == [node]
