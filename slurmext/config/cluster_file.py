"""A cluster that is not there (yet), for `slurmext simulate`: nodes and their GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
from pydantic import BaseModel, ConfigDict, Field

from slurmext.config.yaml_errors import ConfigError, check, load_yaml
from slurmext.model.node import Node

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 100_000


class NodesDocument(BaseModel):
    """Nodes that are alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: Annotated[int, Field(ge=0, le=64, description="GPUs of each node.")]
    gpu_type: Annotated[str, Field(description="Their type, as in Gres=gpu:TYPE:N.")] = "gpu"


class ClusterDocument(BaseModel):
    """`nodes` by host list: `n[01-32]: 8`, or `n[01-32]: {gpus: 8, gpu_type: h100}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    nodes: dict[str, Annotated[int, Field(ge=0, le=64)] | NodesDocument]


def load_cluster(path: Path, text: str) -> tuple[Node, ...]:
    """The nodes of a cluster file. Raises ConfigError, `file:line: key: message`."""
    document = load_yaml(text, str(path))
    cluster = check(document, ClusterDocument)
    found: dict[str, Node] = {}
    for hosts, what in cluster.nodes.items():
        kind = NodesDocument(gpus=what) if isinstance(what, int) else what
        try:
            names = NodeSet(hosts, resolver=RESOLVER_NOGROUP)
        except NodeSetException as error:
            raise ConfigError([document.problem(("nodes", hosts), f"no host list: {error}")]) from error
        if len(names) + len(found) > _MOST:
            raise ConfigError([document.problem(("nodes", hosts), f"more than {_MOST} nodes")])
        for name in names:
            if name in found:
                raise ConfigError([document.problem(("nodes", hosts), f"{name} is named twice")])
            found[name] = Node(name=name, gpus=kind.gpus, gpu_type=kind.gpu_type)
    return tuple(found.values())
