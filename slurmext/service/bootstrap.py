"""The composition root: the only place that builds adapters."""

from __future__ import annotations

import time
from collections.abc import Callable

from slurmext.adapters.slurm_cli.actuator import SlurmActuator
from slurmext.adapters.slurm_cli.reader import SlurmReader
from slurmext.adapters.slurm_cli.runner import SlurmRunner
from slurmext.adapters.unix_groups import UnixGroups
from slurmext.config.policy import SitePolicy
from slurmext.config.site import SiteConfig
from slurmext.model.snapshot import Snapshot
from slurmext.policy.invariants.over_time import Look
from slurmext.ports import Store
from slurmext.service.apply import Applier, EndLeft
from slurmext.service.cycle import Controller


class SystemClock:
    """Unix seconds of this host."""

    def now(self) -> float:
        """Now."""
        return time.time()


def open_store(site: SiteConfig) -> Store:
    """The site's state store. Raises StoreUnavailable or a SlurmextError that says what to run."""
    from slurmext.adapters.sql import SqlStore  # noqa: PLC0415  SQLAlchemy takes a second to import

    return SqlStore(site.database, cluster=site.cluster)


def slurm_runner(site: SiteConfig) -> SlurmRunner:
    """Slurm's commands of the site."""
    return SlurmRunner(site.slurm.bin_dir, site.slurm.conf)


def controller(
    site: SiteConfig,
    store: Store,
    *,
    on_policy: Callable[[SitePolicy], None] = lambda _policy: None,
    on_look: Callable[[Look], None] | None = None,
    end_left: EndLeft = lambda _nodes, _raw_id, _before_s: None,
) -> Controller:
    """The cycle over the site's real Slurm."""
    runner, clock = slurm_runner(site), SystemClock()
    reader = SlurmReader(runner, clock)
    applier = Applier(
        store=store,
        reader=reader,
        actuator=SlurmActuator(runner),
        clock=clock,
        guard_s=site.daemon.heartbeat_stale_s,
        end_left=end_left,
    )
    return Controller(
        store=store,
        reader=reader,
        applier=applier,
        clock=clock,
        shadow=site.daemon.shadow,
        on_policy=on_policy,
        groups_of=UnixGroups(),
        on_look=on_look,
    )


def current_snapshot(site: SiteConfig) -> Snapshot:
    """What the daemon would see now."""
    store = open_store(site)
    try:
        return controller(site, store).observation().snapshot
    finally:
        store.close()
