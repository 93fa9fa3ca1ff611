"""The composition root: the only place that builds adapters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection

from slurmext.adapters.slurm_cli.actuator import SlurmActuator
from slurmext.adapters.slurm_cli.reader import SlurmReader
from slurmext.adapters.slurm_cli.runner import SlurmRunner
from slurmext.adapters.slurm_cli.topology import SlurmTopology
from slurmext.adapters.unix_groups import UnixGroups, uids_of
from slurmext.config.policy import SitePolicy
from slurmext.config.site import SiteConfig
from slurmext.model.cluster import ClusterView
from slurmext.model.slicing import SlicedGpu
from slurmext.model.snapshot import Snapshot
from slurmext.policy.invariants.over_time import Look
from slurmext.ports import Clock, SliceAgents, StageAgents, Store
from slurmext.service.apply import Applier, EndLeft, Tell
from slurmext.service.cycle import Controller
from slurmext.service.models import ModelRequests, Quotas
from slurmext.service.slices.desk import SliceDesk
from slurmext.service.slices.nobody import NoAgents
from slurmext.service.staging.desk import StageDesk


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
    tell: Tell = lambda _nodes, _raw_id, _signal, _script: None,
    slice_agents: SliceAgents | None = None,
    stage_agents: StageAgents | None = None,
    on_cards: Callable[[Collection[SlicedGpu], int], None] = lambda _cards, _unheard: None,
    on_view: Callable[[ClusterView], None] = lambda _view: None,
) -> Controller:
    """The cycle over the site's real Slurm."""
    runner, clock = slurm_runner(site), SystemClock()
    reader, actuator = SlurmReader(runner, clock), SlurmActuator(runner, holder=_holder(site))
    applier = Applier(
        store=store,
        reader=reader,
        actuator=actuator,
        clock=clock,
        guard_s=site.daemon.heartbeat_stale_s,
        end_left=end_left,
        tell=tell,
    )
    desk = SliceDesk(
        store=store,
        applier=applier,
        actuator=actuator,
        reader=reader,
        placeholders=actuator,
        agents=NoAgents() if slice_agents is None else slice_agents,
        clock=clock,
        owners={0, *uids_of(site.slurm.user)},
        on_cards=on_cards,
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
        on_view=on_view,
        slices=desk,
        staging=None if stage_agents is None else _stage_desk(site, store, stage_agents, runner, clock),
    )


def _stage_desk(site: SiteConfig, store: Store, agents: StageAgents, runner: SlurmRunner, clock: Clock) -> StageDesk:
    return StageDesk(
        store=store,
        agents=agents,
        clock=clock,
        quotas=_quotas(site),
        ahead_s=site.staging.ahead_s,
        topology=SlurmTopology(runner, clock),
    )


def model_requests(
    site: SiteConfig, store: Store, desk: StageDesk | None, changed: Callable[[], None]
) -> ModelRequests:
    """What users ask of models; `changed` has a cycle run."""
    return ModelRequests(store=store, desk=desk, quotas=_quotas(site), changed=changed)


def _quotas(site: SiteConfig) -> Quotas:
    return Quotas.of_gib(site.staging.user_registered_gib, site.staging.user_node_gib)


def _holder(site: SiteConfig) -> str | None:
    """Who placeholder jobs run as: SlurmUser, where we may choose."""
    return site.slurm.user if os.geteuid() == 0 and uids_of(site.slurm.user) else None


def current_snapshot(site: SiteConfig) -> Snapshot:
    """What the daemon would see now."""
    store = open_store(site)
    try:
        return controller(site, store).observation().snapshot
    finally:
        store.close()
