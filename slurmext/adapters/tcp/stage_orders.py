"""What the controller wants of models, as orders to agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.adapters.tcp.model_orders import ActOnModel, Catalogue, PreloadJob, StageModel

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from slurmext.adapters.tcp.agent_server import AgentServer
    from slurmext.adapters.tcp.orders import Order
    from slurmext.ports.staging import ModelAct
    from slurmext.staging.kinds import TierKind
    from slurmext.staging.names import ModelKey
    from slurmext.staging.order import StageOrder
    from slurmext.staging.preload import Preload, Registered

MODELS_A_LINE = 50
"""A path may have 4096 bytes, and a line 256 KiB."""


class StageOrders:
    """Implements `ports.StageAgents`."""

    def __init__(self, server: Callable[[], AgentServer]) -> None:
        """`server` gives the one agents are connected to, which is made later than this."""
        self._server = server

    def connected(self) -> Mapping[str, str]:
        """Nodes whose agents are connected, and the addresses they came from."""
        return {
            agent.node: agent.address.removeprefix("agent-").rpartition(":")[0] for agent in self._server().connected()
        }

    def stage(self, node: str, order: StageOrder) -> bool:
        """Have a model there."""
        return self._tell(node, StageModel(order=order))

    def act(self, node: str, act: ModelAct, key: ModelKey, tier: TierKind, holder: str = "") -> bool:
        """Do this with a model there."""
        return self._tell(node, ActOnModel(act=act, key=key, tier=tier, holder=holder))

    def preload(self, node: str, job_id: int, models: Sequence[Preload]) -> bool:
        """Tell what a job's models are."""
        return self._tell(node, PreloadJob(job_id=job_id, models=tuple(models)))

    def catalogue(self, nodes: Collection[str], models: Sequence[Registered]) -> None:
        """The registry's models, in lines that are not too long."""
        for at in range(0, max(1, len(models)), MODELS_A_LINE):
            part = Catalogue(models=tuple(models[at : at + MODELS_A_LINE]), first=at == 0)
            self._server().order(nodes, part)

    def _tell(self, node: str, order: Order) -> bool:
        return self._server().order([node], order) == [node]
