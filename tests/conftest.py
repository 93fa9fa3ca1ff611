"""Real clusters for tests marked `cluster`: one shared by the session, and private ones on demand."""

from __future__ import annotations

import itertools
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurmext.devcluster import Devcluster

# Machines that run tests are shared: how long an example takes says nothing about the code.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

USERS = ("alice", "bob")
_numbers = itertools.count(1)
_LOG_LINES = 25


def _require_slurm() -> None:
    from slurmext.devcluster import packages

    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    if packages.missing(packages.SLURM) and shutil.which("apt-get") is None:
        pytest.skip(f"needs {' '.join(packages.missing(packages.SLURM))}, and this is no apt system")


def _boot(**options: Any) -> Devcluster:
    from slurmext.devcluster import ClusterSpec, Devcluster

    name = f"test-{os.getpid()}-{next(_numbers)}"
    return Devcluster.up(ClusterSpec(**{"name": name, "users": USERS, **options}))


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Devcluster]:
    """4 nodes with 8 GPUs and slurmext, booted when first asked for. Tests use `cluster`, which cleans up."""
    _require_slurm()
    with _boot() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Devcluster) -> Iterator[Devcluster]:
    """The shared cluster, every process running and without jobs before and after the test."""
    yield shared_cluster
    for name, pid in shared_cluster.status().items():
        if pid is None:
            shared_cluster.start(name)
    shared_cluster.cancel_all()


@pytest.fixture
def new_cluster() -> Iterator[Callable[..., Devcluster]]:
    """Boots a private cluster with these fields of ClusterSpec; it is taken down after the test."""
    _require_slurm()
    booted: list[Devcluster] = []

    def boot(**options: Any) -> Devcluster:
        booted.append(_boot(**options))
        return booted[-1]

    yield boot
    for each in booted:
        if each.dir.exists():
            each.down()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Shows the end of the logs of a failed test's cluster: it is gone when one reads the report."""
    outcome: Any = yield
    report = outcome.get_result()
    shared = getattr(item, "funcargs", {}).get("cluster")
    if report.when != "call" or not report.failed or shared is None or not hasattr(shared, "layout"):
        return
    for name in ("slurmextd.out", "slurmctld.log"):
        path = shared.layout.log / name
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            report.sections.append((f"end of {name}", "\n".join(lines)))
