"""Heterogeneous jobs that Slurm requeued without some of their components: those wait for ever.

When the node of the first component fails, Slurm requeues that one alone, and the others end as failed (tried on
22.05). `scontrol requeue` of the whole says that it is pending, and requeues the others all the same. They can be
had back for as long as Slurm remembers them (MinJobAge). They have Slurm's own delay before they start: sooner, nodes
that still clean up refuse to launch the job, and Slurm holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from slurmext.errors import SlurmRefused, SlurmUnavailable
from slurmext.model.cluster import ClusterView
from slurmext.model.heterogeneous import first_of, whole_id
from slurmext.model.job import JobState
from slurmext.ports import Actuator

log = logging.getLogger(__name__)

AGAIN_S = 10.0
"""What was of no use is tried again after this time."""


def stranded(view: ClusterView) -> Iterable[str]:
    """Jobs of --ckpt whose first component waits to run again, while another has ended."""
    waiting = {
        record.slurm_id: record
        for record in view.jobs
        if record.het and record.state is JobState.PENDING and record.restarts and record.requeue
    }
    if not waiting:
        return []
    lost = {whole_id(record.slurm_id) for record in view.ended if record.het}
    asked = {whole_id(name) for name, record in waiting.items() if record.annotation and record.annotation.ckpt}
    return sorted(job_id for job_id in lost & asked if first_of(job_id) in waiting)


class Rejoining:
    """Gets them back."""

    def __init__(self, actuator: Actuator) -> None:
        self._actuator = actuator
        self._asked_s = dict[str, float]()

    def see(self, view: ClusterView) -> None:
        """Look at what Slurm says."""
        found = stranded(view)
        self._asked_s = {job_id: at_s for job_id, at_s in self._asked_s.items() if job_id in found}
        for job_id in found:
            if view.read_s - self._asked_s.get(job_id, 0.0) < AGAIN_S:
                continue
            self._asked_s[job_id] = view.read_s
            log.info("job %s was requeued without all of its components: they are requeued, too", job_id)
            try:
                self._actuator.requeue([job_id])
            except (SlurmRefused, SlurmUnavailable) as error:
                log.warning("job %s: %s", job_id, error)
