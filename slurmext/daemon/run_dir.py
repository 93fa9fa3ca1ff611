"""Files of slurmextd that job_submit reads, and those that wake it."""

from __future__ import annotations

import grp
import os
import pwd
import threading
from collections.abc import Collection
from pathlib import Path

from slurmext.adapters.unix_groups import uids_of
from slurmext.config.node_table import nodes_tsv
from slurmext.config.policy import SitePolicy
from slurmext.config.slice_table import slices_tsv
from slurmext.config.submit_table import NameService, queues_tsv
from slurmext.model.cluster import ClusterView
from slurmext.model.slicing import SlicedGpu


class RunDir:
    """The run directory of one slurmextd. With `readonly` nothing is written: no job is held."""

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self._path = path
        self._readonly = readonly
        self._policy: SitePolicy | None = None
        self._nodes = ""

    def prepare(self, slurm_user: str) -> None:
        """Make it, and the file that job_submit, which runs as `slurm_user`, writes to wake slurmextd."""
        self._path.mkdir(mode=0o755, parents=True, exist_ok=True)
        wake = self._path / "submit-wake"
        descriptor = os.open(wake, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            for uid in uids_of(slurm_user):
                if os.geteuid() == 0:
                    os.fchown(descriptor, uid, -1)
        finally:
            os.close(descriptor)

    def write_heartbeat(self, now_s: float) -> None:
        """Say that jobs may be held."""
        self._write("heartbeat", str(int(now_s)))

    def write_queues(self, policy: SitePolicy) -> None:
        """The queues, and who may use them."""
        self._policy = policy
        self._write("queues.tsv", queues_tsv(policy, _NAMES))

    def refresh_queues(self) -> None:
        """Write the queues again: groups get new members without anybody applying a policy."""
        if self._policy is not None:
            self.write_queues(self._policy)

    def write_slices(self, cards: Collection[SlicedGpu], unheard: int) -> None:
        """What can be cut from the GPUs at hand; of `unheard` nodes nobody knows yet."""
        if cards:
            self._write("slices.tsv", slices_tsv(cards, unheard))

    def write_nodes(self, view: ClusterView) -> None:
        """The most that a node has of everything."""
        partitions = {name: room.partitions for name, room in view.room.items()}
        if (text := nodes_tsv(view.nodes, partitions)) != self._nodes:
            self._write("nodes.tsv", text)
            self._nodes = text

    def _write(self, name: str, text: str) -> None:
        """Replace a file in one step, readable by all."""
        if self._readonly:
            return
        fresh = self._path / f".{name}.{os.getpid()}.{threading.get_ident()}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(self._path / name)


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _members(group: str) -> Collection[str]:
    try:
        found = grp.getgrnam(group)
    except KeyError:
        return ()
    return {*found.gr_mem, *(entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == found.gr_gid)}


_NAMES = NameService(
    members=_members, gid=_gid, all_gids=lambda: {entry.gr_name: entry.gr_gid for entry in grp.getgrall()}
)
