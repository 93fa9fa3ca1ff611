"""A real Slurm on one machine: munged, slurmctld, one slurmd per simulated node, agents and slurmextd.

`Devcluster.up(ClusterSpec(...))` boots one in a directory of its own, for tests and for `slurmext devcluster`.
Nothing here decides about jobs. It may import model, config and install; nothing but `cli` and tests imports it.
"""

from slurmext.devcluster.cluster import Devcluster
from slurmext.devcluster.spec import ClusterSpec

__all__ = ["ClusterSpec", "Devcluster"]
