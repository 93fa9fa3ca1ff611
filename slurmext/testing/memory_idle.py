"""What MemoryStore knows of how GPUs are used: idle ones, notices about them, what queues used in the past."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.errors import SlurmextError
from slurmext.model.state import Extension, GpuActivity, GpuState, JobKey, Notice, PastUse

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Mapping, Sequence


class MemoryIdle:
    """In dictionaries."""

    _lock: threading.RLock

    def __init__(self) -> None:
        super().__init__()
        self._activity: dict[tuple[str, str], GpuActivity] = {}
        self._extensions: dict[JobKey, Extension] = {}
        self._notices: list[Notice] = []
        self._past_use: dict[str, PastUse] = {}

    def _require_up(self) -> None: ...

    def _require_controller(self, token: int) -> None: ...

    def record_gpu_activity(self, record: GpuActivity) -> None:
        with self._lock:
            self._require_up()
            key = (record.job_id, record.node)
            if key not in self._activity or self._activity[key].at_s <= record.at_s:
                self._activity[key] = record

    def gpu_activity(
        self, *, job_ids: Collection[str] | None = None, state: GpuState | None = None
    ) -> list[GpuActivity]:
        with self._lock:
            self._require_up()
            found = sorted(self._activity.items())
        return [
            record
            for _, record in found
            if (job_ids is None or record.job_id in job_ids) and state in {None, record.state}
        ]

    def record_extension(self, record: Extension) -> None:
        with self._lock:
            self._require_up()
            self._extensions[record.job] = record

    def extensions(self, *, until_s: float) -> Mapping[JobKey, Extension]:
        with self._lock:
            self._require_up()
            return {job: found for job, found in self._extensions.items() if found.keep_until_s > until_s}

    def replace_notices(self, token: int, notices: Sequence[Notice]) -> None:
        if len({(notice.job, notice.reason) for notice in notices}) < len(notices):
            raise SlurmextError("a job was given two notices for one reason; keep the earlier.")
        with self._lock:
            self._require_controller(token)
            self._notices = list(notices)

    def notices(self) -> list[Notice]:
        with self._lock:
            self._require_up()
            return sorted(self._notices, key=lambda notice: (notice.since_s, notice.job.job_id))

    def save_past_use(self, token: int, uses: Sequence[PastUse]) -> None:
        with self._lock:
            self._require_controller(token)
            self._past_use = {use.queue: use for use in uses}

    def past_use(self) -> list[PastUse]:
        with self._lock:
            self._require_up()
            return [use for _, use in sorted(self._past_use.items())]
