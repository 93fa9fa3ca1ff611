"""Parts of a real site die or hang in the middle of things; nothing is lost and nothing is done twice."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from slurmext.devcluster import processes
from slurmext.errors import StoreUnavailable
from slurmext.model.state import ActionKind, ActionState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.model.state import Lease
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster

CONTROLLER = "controller"


def evictions(site: Site, *states: ActionState) -> list[str]:
    """Jobs whose eviction is under way, in one of these states."""
    return [
        action.job.job_id
        for action in site.store.open_actions()
        if action.kind is ActionKind.EVICT and action.state in states
    ]


def daemon_log(site: Site) -> str:
    return (site.cluster.layout.log / "slurmextd.out").read_text(errors="replace")


def goes_without_database(site: Site, said: int) -> bool:
    """Whether the daemon has noticed; the same trouble is told once, by whoever meets it first."""
    return bool(re.search(r"(cycle skipped|lease not renewed): state database", daemon_log(site)[said:]))


def lease(site: Site) -> Lease:
    found = site.store.current_lease(CONTROLLER)
    assert found is not None
    return found


def last_beat(site: Site) -> float:
    """When slurmextd last beat: only after a cycle that succeeded not long ago."""
    return float((site.cluster.layout.slurmext_run / "heartbeat").read_text())


@contextmanager
def second_daemon(site: Site) -> Iterator[int]:
    """Another slurmextd of the same site, on this host; its pid."""
    argv = [sys.executable, "-P", "-m", "slurmext.daemon.main"]
    pid = processes.spawn("second", argv, site.cluster.layout, env=site.cluster.environment())
    said = site.cluster.layout.log / "second.out"
    try:
        site.until(lambda: "waits" in said.read_text())
        yield pid
    finally:
        processes.stop(pid, grace_s=10)


@pytest.mark.parametrize("boundary", [ActionState.SIGNALLED, ActionState.REQUEUED])
def test_a_reclaim_survives_the_death_of_the_daemon(site: Site, boundary: ActionState) -> None:
    """Killed after the signals or after the requeues: the gang starts, each victim is requeued once and runs again."""
    jobs = site.fill("--ckpt=auto")
    gang = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8")
    site.until(lambda: len(evictions(site, boundary)) == 2)
    gone = set(evictions(site, boundary))
    site.cluster.kill("slurmextd")
    if boundary is ActionState.SIGNALLED:  # a gang whose victims were told to end was released with that, and may run
        assert site.state(gang) == "PENDING"
    site.cluster.start("slurmextd")
    site.until_running(gang)
    site.until(lambda: not site.store.open_actions())
    assert {job for job in jobs if site.job(job).restarts} == gone
    assert {site.state(job) for job in gone} == {"PENDING"}
    assert sorted(line.victim.job_id for line in site.store.preemptions(limit=5) if line.beneficiary == gang) == sorted(
        gone
    )
    site.cluster.run(["scancel", gang])
    site.until_running(*jobs)
    assert {job: site.job(job).restarts for job in gone} == dict.fromkeys(gone, 1)


def test_slurmctld_down_for_a_while(site: Site) -> None:
    """Cycles are skipped, the daemon stays and goes on when slurmctld is back; running jobs never notice."""
    running = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until_running(running)
    full = [site.submit("alice", "--queue=research", "--gres=gpu:8") for _ in range(3)]
    site.until_running(*full)
    waiting = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until(lambda: site.reason(waiting))
    before = site.job(running)
    daemon, said = site.cluster.pid("slurmextd"), len(daemon_log(site))
    site.until(lambda: site.field(full[2], "RunTime") >= "00:00:06")  # else slurmctld forgets that the job started
    site.cluster.kill("slurmctld")
    (site.cluster.layout.slurmext_run / "wake").write_text("1")
    site.until(lambda: "cycle skipped" in daemon_log(site)[said:])
    assert not site.store.open_actions()
    site.cluster.start("slurmctld")
    site.cluster.run(["scancel", full[0]])
    site.until_running(waiting)
    assert site.cluster.pid("slurmextd") == daemon
    assert (site.job(running).start_s, site.job(running).restarts) == (before.start_s, 0)
    rows = {row.job.job_id: row.state for row in site.store.jobs()}
    assert {running, *full[1:], waiting} <= rows.keys()


def test_two_daemons_and_only_one_acts(site: Site) -> None:
    """The second waits for the lease, admits nothing, and takes over when the first is killed."""
    first = lease(site)
    with second_daemon(site) as pid:
        # several cycles of the first, with the second beside it
        jobs = [site.submit("alice", "--queue=research", "--gres=gpu:8") for _ in range(2)]
        site.until_running(*jobs)
        assert lease(site).token == first.token
        assert [len(site.store.actions(job_id=job)) for job in jobs] == [1, 1], "released once"
        site.cluster.kill("slurmextd")
        site.until(lambda: lease(site).token > first.token)
        assert lease(site).holder.endswith(f":{pid}")
        taken_s = time.time()
        site.until(lambda: last_beat(site) >= int(taken_s))  # before that, jobs may pass unheld
        later = site.submit("alice", "--queue=research", "--gres=gpu:8")
        site.until_running(later)
        assert [action.kind for action in site.store.actions(job_id=later)] == [ActionKind.RELEASE]
        assert [site.state(job) for job in jobs] == ["RUNNING", "RUNNING"]


def test_a_frozen_daemon_that_wakes_after_another_took_over_does_nothing(site: Site) -> None:
    """Its token is the older one: it neither acts nor beats, and waits until the lease is free."""
    first = lease(site)
    full = site.fill()
    waiting = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until(lambda: site.reason(waiting))
    said = len(daemon_log(site))
    site.cluster.kill("slurmextd", signal.SIGSTOP)

    def take_over() -> Lease | None:
        try:
            return site.store.acquire_lease(CONTROLLER, "elsewhere:1", 600, time.time())
        except StoreUnavailable:  # it was stopped while it wrote: nobody else can before it goes on
            site.cluster.kill("slurmextd", signal.SIGCONT)
            time.sleep(0.2)
            site.cluster.kill("slurmextd", signal.SIGSTOP)
            return None

    try:
        other = site.until(take_over)
        assert other.token > first.token
        site.cluster.run(["scancel", full[0]])
    finally:
        site.cluster.kill("slurmextd", signal.SIGCONT)
    try:
        site.until(lambda: "lease" in daemon_log(site)[said:])
        assert lease(site).holder == "elsewhere:1"
        assert (site.state(waiting), site.store.actions(job_id=waiting)) == ("PENDING", [])
        assert time.time() - last_beat(site) > site.stale_s
    finally:
        site.store.release_lease(other)
    site.until_running(waiting)


def test_a_locked_database_stops_everything_until_it_is_free(site: Site) -> None:
    """While another process holds the database no job is released; afterwards all goes on."""
    said = len(daemon_log(site))
    with closing(sqlite3.connect(site.database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        job = site.submit("alice", "--queue=research", "--gres=gpu:8")
        site.until(lambda: goes_without_database(site, said))
        assert (site.state(job), site.field(job, "Priority")) == ("PENDING", "0")
        connection.execute("ROLLBACK")
    site.until_running(job)


def test_a_database_that_is_gone_stops_everything_until_it_is_back(site: Site) -> None:
    """Its folder is moved away: nothing is released, nothing new is made in its place; it comes back, all goes on."""
    folder, aside = site.database.parent, site.database.parent.with_name("aside")
    site.store.close()
    folder.rename(aside)
    said = len(daemon_log(site))
    try:
        job = site.submit("alice", "--queue=research", "--gres=gpu:8")
        site.until(lambda: goes_without_database(site, said))
        assert (site.state(job), site.field(job, "Priority")) == ("PENDING", "0")
        assert not site.database.exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    site.until_running(job)
    site.until(lambda: time.time() - last_beat(site) < site.stale_s)
