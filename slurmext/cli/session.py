"""What a command works with: the site file, answers (from the daemon, else the database), and the store for writing."""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurmext.cli.base import program
from slurmext.errors import SlurmextError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slurmext.adapters.tcp.queries import TcpQueryClient
    from slurmext.config.site import SiteConfig
    from slurmext.devcluster import Devcluster
    from slurmext.model.snapshot import Snapshot
    from slurmext.ports import Store
    from slurmext.service.models import ModelRequests

_SHORT_S = 10.0
_LONG_S = 120.0
"""A model of terabytes has millions of chunks to be compared with those of others."""


class Session:
    """One run of the command. Tests hand in `site`, `store` and what there is to `look` at; otherwise they are found
    when first needed.
    """

    def __init__(
        self,
        *,
        site: SiteConfig | None = None,
        store: Store | None = None,
        now: Callable[[], float] = time.time,
        uid: int | None = None,
        look: Callable[[], Snapshot] | None = None,
    ) -> None:
        self._site, self._store, self._look = site, store, look
        self._models: ModelRequests | None = None
        self.now = now
        self.uid = os.geteuid() if uid is None else uid

    @cached_property
    def site(self) -> SiteConfig:
        """The site file. Raises ConfigError and others as load_site does."""
        if self._site is not None:
            return self._site
        return find_site()

    def ask(self, op: str, **arguments: object) -> dict[str, Any]:
        """An answer of the running daemon, here or on the controller; without it root gets one from the database."""
        from slurmext.adapters.query_client import DaemonUnavailableError, QueryClient

        socket = self.site.run_dir / "daemon.sock"
        wait_s = _LONG_S if op == "model_register" else _SHORT_S
        try:
            return QueryClient(socket, timeout_s=wait_s).ask(op, **arguments)
        except DaemonUnavailableError as error:
            problem = error
        if self._store is None and not socket.exists():  # a login host; where the daemon is, its socket is
            try:
                return self._remote(wait_s).ask(op, **arguments)
            except DaemonUnavailableError as error:
                problem = error
        if self.uid != 0 and self._store is None:
            raise SlurmextError(f"{problem}; without it only root can look, into the database") from problem
        from slurmext.service.query import Queries, Viewer

        given = {key: value for key, value in arguments.items() if value is not None}
        if op == "models" or op.startswith("model_"):
            from slurmext.service.models import ModelRequests, caller_of

            models = self._models = self._models or ModelRequests(store=self.store, now=self.now)
            return models.answer(caller_of(self.uid), op, given)
        queries = Queries(store=self.store, now=self.now)
        return queries.answer(Viewer(user=user_name(self.uid), sees_all=self.uid == 0), op, given)

    def _remote(self, wait_s: float) -> TcpQueryClient:
        from slurmext.adapters.munge import MungeAuth, MungeError
        from slurmext.adapters.query_client import DaemonUnavailableError
        from slurmext.adapters.tcp.queries import TcpQueryClient
        from slurmext.adapters.unix_groups import uids_of

        site = self.site
        try:
            munge = MungeAuth.find(bin_dir=site.slurm.bin_dir, socket=site.munge_socket)
        except MungeError as error:
            raise DaemonUnavailableError(f"slurmextd cannot be asked: {error}") from error
        trusted = {0, *uids_of(site.slurm.user)}
        return TcpQueryClient(site.daemon.address, munge, trusted, timeout_s=wait_s)

    @cached_property
    def store(self) -> Store:
        """The state database itself. Raises UsageError for users other than root."""
        if self._store is not None:
            return self._store
        self.require_root("opens the state database")
        from slurmext.service.bootstrap import open_store

        return open_store(self.site)

    def snapshot(self) -> Snapshot:
        """The cluster as the daemon would see it now. Raises SlurmextError, UsageError for users other than root."""
        if self._look is not None:
            return self._look()
        self.require_root("sees the whole cluster's jobs")
        from slurmext.service.bootstrap import controller

        return controller(self.site, self.store).observation().snapshot

    def cluster_gpus(self) -> int | None:
        """GPUs of the whole cluster, as Slurm tells everyone; None where there is none to ask."""
        if self._look is not None:
            return sum(node.gpus for node in self._look().nodes) or None
        from slurmext.adapters.slurm_cli.runner import SlurmRunner
        from slurmext.doctor.collect import cluster_gpus

        try:
            slurm = self.site.slurm
        except SlurmextError:
            return None
        return cluster_gpus(SlurmRunner(slurm.bin_dir, slurm.conf, timeout_s=_SHORT_S))

    def require_root(self, what: str) -> None:
        """Raises UsageError unless root runs this."""
        if self.uid != 0:
            raise UsageError(f"only root {what}; run it with sudo")

    def wake(self) -> None:
        """Tell the daemon that something changed. Without a daemon there is nobody to tell."""
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.site.run_dir / "wake", flags, 0o644)
            with os.fdopen(descriptor, "w") as file:
                file.write("1")

    def heartbeat_age_s(self) -> float | None:
        """Seconds since slurmextd last said that it lives; None when it never did."""
        try:
            return self.now() - int(Path(self.site.run_dir / "heartbeat").read_text(encoding="ascii")[:20])
        except (OSError, ValueError):
            return None

    @property
    def author(self) -> str:
        """Who runs this, for the record."""
        behind = os.environ.get("SUDO_USER")
        name = user_name(self.uid)
        return f"{name} (sudo {behind})" if behind else name


def find_site(path: Path | None = None) -> SiteConfig:
    """The site file. Raises as load_site does; where this host has none, a devcluster that is up is named."""
    from slurmext.config.site import NoSiteFileError, load_site

    try:
        return load_site(path)
    except NoSiteFileError as error:
        from slurmext.devcluster import Devcluster

        raise SlurmextError(f"{error}{way_in(Devcluster.list())}") from error


def way_in(clusters: Iterable[Devcluster]) -> str:
    """`; or …` with the command that leads into the first of these devclusters that runs; empty when none does."""
    from slurmext.devcluster.spec import chosen

    for cluster in clusters:
        if cluster.pid("slurmctld") is not None:
            return f"; or use the devcluster {cluster.spec.name}: `{program()} devcluster shell{chosen(cluster.dir)}`"
    return ""


def user_name(uid: int) -> str:
    """A user's name; `uid N` when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
