"""What agents say, each event to what keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.daemon.checkpoint_events import COPY, checkpoint_of, cost_of, store_copy
from slurmext.daemon.gpu_events import GPU_ACTIVITY, store_activity
from slurmext.daemon.slice_events import forgotten, take_in
from slurmext.daemon.stage_events import about_models
from slurmext.model.state import Event
from slurmext.ports import Store
from slurmext.service.staging.desk import StageDesk


class AgentEvents:
    """Called with every event of an agent; the same one may come again. `wake` has a cycle run.

    `withdraw` tells an agent (node, reservation) that slices are not wanted any more. `slurm_id` turns a job's number
    into the id it is known by (array tasks have both).
    """

    def __init__(
        self,
        store: Store,
        *,
        slurm_id: Callable[[str], str],
        wake: Callable[[], object],
        withdraw: Callable[[str, str], object],
        staging: StageDesk | None = None,
    ) -> None:
        self._staging = staging
        self._store = store
        self._withdraw = withdraw
        self._slurm_id = slurm_id
        self._wake = wake
        self.copies_ports: dict[str, int] = {}
        """Node -> the port at which its agent takes copies of checkpoints."""

    def __call__(self, event: AgentEvent) -> None:
        """Keep what is said. Raises StoreUnavailable; the agent sends it again then."""
        job_id = None if event.job_id is None else self._slurm_id(str(event.job_id))
        if event.event == GPU_ACTIVITY:
            if job_id is not None and store_activity(self._store, event, job_id, time.time()):
                self._wake()
            return
        news = take_in(self._store, event, job_id, time.time())
        if news is not None:
            for reservation in forgotten(self._store, event):
                self._withdraw(event.node, reservation)
            if news:
                self._wake()
            return
        if self._staging is not None and (known := about_models(self._staging, event)) is not None:
            if known:
                self._wake()
            return
        if event.event == COPY:
            store_copy(self._store, event)
            return
        if event.event == "hello" and isinstance(port := event.detail.get("copies_port"), int):
            self.copies_ports[event.node] = port
        stored = Event(
            at_s=event.at_s, source=f"agent:{event.node}", kind=event.event, job_id=job_id, detail=dict(event.detail)
        )
        new = self._store.record_event(stored, dedup=f"{event.node}/{event.boot}/{event.seq}")
        if new and event.event == "checkpoint" and job_id is not None:
            self._store.record_checkpoint(checkpoint_of(event, job_id))
            if (cost := cost_of(event, job_id)) is not None:
                self._store.record_checkpoint_cost(cost)
        self._wake()
