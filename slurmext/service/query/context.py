"""What answers are drawn from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from slurmext.config.policy import SitePolicy, stored_policy
from slurmext.model.plan import Plan
from slurmext.model.slicing import SlicePlan, SliceSnapshot
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import PolicyVersion
from slurmext.ports import Store
from slurmext.service.forecast import Forecast

World = tuple[Snapshot, Plan]
"""What the daemon saw in its last cycle, and what it decided."""


def _no_world() -> World | None:
    return None


def _no_slices() -> tuple[SliceSnapshot, SlicePlan] | None:
    return None


def _no_forecast(_snapshot: Snapshot, _job_id: str) -> Forecast | None:
    return None


@dataclass(slots=True, kw_only=True)
class Context:
    """The store, and what only the running daemon knows.

    `live` has `status` and `plan`, each JSON values; `world` is its last cycle's (`slices` for parts of GPUs), and
    `forecast` runs that on. `changed` is called when an answer changed something that the next cycle should see,
    `tidy` when the next cycle shall defragment. `raw_ids` are the SLURM_JOB_ID of what Slurm's commands call a job.
    """

    store: Store
    now: Callable[[], float] = time.time
    live: Mapping[str, Callable[[], Mapping[str, object]]] = field(
        default_factory=dict[str, "Callable[[], Mapping[str, object]]"]
    )
    world: Callable[[], World | None] = _no_world
    forecast: Callable[[Snapshot, str], Forecast | None] = _no_forecast
    slices: Callable[[], tuple[SliceSnapshot, SlicePlan] | None] = _no_slices
    changed: Callable[[], None] = lambda: None
    tidy: Callable[[], None] = lambda: None
    raw_ids: Callable[[str], Sequence[str]] = lambda slurm_id: (slurm_id,)
    _parsed: tuple[int, SitePolicy] | None = None

    def site_policy(self) -> tuple[PolicyVersion, SitePolicy] | None:
        """The policy in force, with the numbers of this moment; None before the first."""
        stored = self.store.current_policy()
        if stored is None:
            return None
        if self._parsed is None or self._parsed[0] != stored.version:
            self._parsed = stored.version, stored_policy(stored)
        return stored, self._parsed[1].at(self.now())
