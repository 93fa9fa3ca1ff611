"""The policy of the moment: the stored one, with the numbers its calendar has in force and what must leave when."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from slurmext.config.history import BACK_S, shrinks
from slurmext.config.policy import SitePolicy, stored_policy
from slurmext.config.quota import Resolved
from slurmext.config.yaml_errors import ConfigError
from slurmext.model.policy import Policy
from slurmext.model.queue import Queue
from slurmext.model.state import PolicyVersion
from slurmext.ports import Store

log = logging.getLogger(__name__)

_MOST_VERSIONS = 200
"""So many policy versions are looked at for what became smaller of late."""


class Policies:
    """Follows the store: what it knows survives restarts. `on_policy` is called with each new version."""

    def __init__(self, store: Store, on_policy: Callable[[SitePolicy], None]) -> None:
        self._store, self._on_policy = store, on_policy
        self._versions: dict[int, tuple[float, SitePolicy]] = {}
        self._found: tuple[int, Resolved, Policy] | None = None

    def at(self, now_s: float) -> Policy:
        """The policy at that time (Unix seconds); version 0 before the first."""
        stored = self._store.current_policy()
        if stored is None:
            return Policy()
        new = stored.version not in self._versions
        if new:
            self._read(stored)
        site = self._versions[stored.version][1]
        in_force = site.schedule.at(now_s)
        if self._found is None or self._found[0] != stored.version or self._found[1] is not in_force:
            history = [self._versions[number] for number in sorted(self._versions)]
            self._found = stored.version, in_force, _policy(stored, site, in_force, history, now_s)
        if new:
            self._on_policy(site)
        policy, slices = self._found[2], site.slices_at(now_s)
        if slices != policy.slices:
            policy = replace(policy, slices=slices)
            self._found = stored.version, in_force, policy
        return policy

    def would_be(self, site: SitePolicy, now_s: float) -> Policy:
        """The policy as it would be if `site` were applied now."""
        stored = self._store.current_policy()
        if stored is not None and stored.version not in self._versions:
            self._read(stored)
        number = 0 if stored is None else stored.version
        version = PolicyVersion(version=number, document="", applied_by="", applied_s=now_s)
        history = [self._versions[number] for number in sorted(self._versions)]
        return _policy(version, site, site.schedule.at(now_s), [*history, (now_s, site)], now_s)

    def _read(self, newest: PolicyVersion) -> None:
        """Parse the versions in force within the time that is looked back on; each is parsed once."""
        known, self._versions = self._versions, {}
        oldest_s = newest.applied_s - BACK_S
        for version in self._store.policy_versions(_MOST_VERSIONS):
            if version.version > newest.version:
                continue
            if version.version in known:
                self._versions[version.version] = known[version.version]
            elif version.version == newest.version:
                self._versions[version.version] = version.applied_s, stored_policy(version)
            else:
                try:
                    self._versions[version.version] = version.applied_s, stored_policy(version)
                except ConfigError as error:
                    log.warning("policy version %d is not looked at for what was cut: %s", version.version, error)
            if version.applied_s <= oldest_s:
                break


def _policy(
    stored: PolicyVersion,
    site: SitePolicy,
    in_force: Resolved,
    history: Sequence[tuple[float, SitePolicy]],
    now_s: float,
) -> Policy:
    delay_s = site.settings.cut_delay_s
    found = shrinks(history, max(now_s, stored.applied_s))
    cuts = {path: since_s + delay_s for path, since_s in found.cuts.items()}
    return replace(
        site.as_model(stored.version),
        queues=tuple(_cut(queue, cuts) for queue in in_force.queues),
        dynamic={path: _cut(like, cuts) for path, like in in_force.dynamic.items()},
        removed={path: since_s + delay_s for path, since_s in found.removed.items()},
    )


def _cut(queue: Queue, cuts: Mapping[str, float]) -> Queue:
    cut_s = cuts.get(queue.path)
    return queue if cut_s is None else replace(queue, cut_s=cut_s)
