"""The network as Slurm's topology plugin knows it: leaf switches (topology/tree), blocks (topology/block, since 23.11).

Slurm's blocks are made for NVLink domains: the nodes of one reach each other over NVLink.
"""

from __future__ import annotations

import logging
import re

from slurmext.adapters.slurm_cli import fields
from slurmext.adapters.slurm_cli.runner import SlurmRunner
from slurmext.errors import SlurmUnavailable
from slurmext.model.topology import Topology
from slurmext.ports import Clock

log = logging.getLogger(__name__)

_FRESH_S = 600.0
_PLACE = re.compile(r"^(?:SwitchName=(?P<switch>\S+) +Level=0|BlockName=(?P<block>\S+)) .*?\bNodes=(?P<nodes>\S+)")


class SlurmTopology:
    """Asked for now and then; while Slurm is away or has no topology, nothing is known."""

    def __init__(self, runner: SlurmRunner, clock: Clock) -> None:
        self._runner, self._clock = runner, clock
        self._asked_s = float("-inf")
        self._known = Topology()

    def __call__(self) -> Topology:
        """The topology, at most ten minutes old."""
        now_s = self._clock.now()
        if not 0 <= now_s - self._asked_s < _FRESH_S:
            self._asked_s = now_s
            try:
                answer = self._runner.run("scontrol", ["show", "topology"])
            except SlurmUnavailable as error:
                log.warning("the topology stays as it was: %s", error)
            else:
                self._known = parse_topology(answer.stdout if answer.code == 0 else "")
        return self._known


def parse_topology(text: str) -> Topology:
    """What `scontrol show topology` says."""
    racks, domains = dict[str, str](), dict[str, str]()
    for line in text.splitlines():
        found = _PLACE.match(line.strip())
        if found is None:
            continue
        of = racks if found["switch"] else domains
        of.update(dict.fromkeys(fields.hosts(found["nodes"]), found["switch"] or found["block"]))
    return Topology(racks=racks, domains=domains)
