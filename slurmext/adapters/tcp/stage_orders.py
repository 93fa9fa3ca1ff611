"""What the controller wants of models, as orders to agents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from slurmext.adapters.tcp.model_orders import ActOnModel, Catalogue, PreloadJob, StageModel
from slurmext.adapters.tcp.wire import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from slurmext.adapters.tcp.agent_server import AgentServer
    from slurmext.adapters.tcp.orders import Order
    from slurmext.ports.staging import ModelAct
    from slurmext.staging.kinds import TierKind
    from slurmext.staging.names import ModelKey
    from slurmext.staging.order import StageOrder
    from slurmext.staging.preload import Preload, Registered

_LINE_BYTES = MAX_LINE_BYTES // 2
_MOST_BESIDE = 1000
"""What a model takes in a line at most, but for its path: that has up to 4096 letters of up to 12 bytes in JSON."""


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
        for number, part in enumerate(_parts(models)):
            self._server().order(nodes, Catalogue(models=part, first=number == 0))

    def _tell(self, node: str, order: Order) -> bool:
        return self._server().order([node], order) == [node]


def _parts(models: Sequence[Registered]) -> Iterator[tuple[Registered, ...]]:
    """The models in parts that fit into a line each; one that is empty when there are none."""
    part: list[Registered] = []
    taken = 0
    for model in models:
        size = _MOST_BESIDE + len(json.dumps(model.storage))
        if part and taken + size > _LINE_BYTES:
            yield tuple(part)
            part, taken = [], 0
        part.append(model)
        taken += size
    yield tuple(part)
