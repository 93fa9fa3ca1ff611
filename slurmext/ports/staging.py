"""What the service needs to have models moved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from slurmext.staging.kinds import TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import StageOrder
from slurmext.staging.preload import Preload, Registered

ModelAct = Literal["cancel", "evict", "pin", "unpin", "recheck"]


class StageAgents(Protocol):
    """Orders about models to the agents of nodes. False: the agent is away, and is not told later."""

    def connected(self) -> Mapping[str, str]:
        """Nodes whose agents are connected, and the addresses they came from."""
        ...

    def stage(self, node: str, order: StageOrder) -> bool:
        """Have a model there; answered by the node's inventory as it comes along."""
        ...

    def act(self, node: str, act: ModelAct, key: ModelKey, tier: TierKind, holder: str = "") -> bool:
        """Receive it no more, remove it, keep it for `holder` or no longer, check every byte."""
        ...

    def preload(self, node: str, job_id: int, models: Sequence[Preload]) -> bool:
        """What a job's models are, before it starts or when its prolog asks."""
        ...

    def catalogue(self, nodes: Collection[str], models: Sequence[Registered]) -> None:
        """The registry's models, for the time when nobody can be asked."""
        ...
