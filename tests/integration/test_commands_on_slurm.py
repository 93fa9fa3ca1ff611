"""The command line against a living daemon: who sees what, what is refused, and what goes on without the daemon."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.cluster

POLICY = """\
version: 1
settings: {default_queue: research, grace_s: 5, requeue_delay_s: 2}
placement: [{queue: prod, user: alice}]
queues:
  research: {guaranteed: 16, max: 32}
  prod: {guaranteed: 16, max: 32, acl: {users: [alice]}}  # hers alone
"""


# The interpreter may stand where only root can read: load everything first, then become the user.
AS_USER = """
import importlib, os, pwd, sys
for name in "job queue history policy plan daemon explain consequences".split():
    importlib.import_module(f"slurmext.cli.{name}")
for name in "adapters.query_client config.policy config.policy_diff config.policy_edit".split():
    importlib.import_module(f"slurmext.{name}")
from slurmext.cli.main import cli
from slurmext.config.site import load_site
load_site()
user = pwd.getpwnam(sys.argv[1])
os.initgroups(user.pw_name, user.pw_gid)
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
cli(sys.argv[2:], prog_name="slurmext")
"""


class Site:
    """A cluster with the policy above in force, and `slurmext` in it."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.queues = cluster.dir / "run" / "slurmext" / "queues.tsv"

    def run(self, *argv: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        if argv[0] != "slurmext":
            return self.cluster.run(argv, user=user, check=False)
        how = ("-m", "slurmext.cli") if user is None else ("-c", AS_USER, user)
        return self.cluster.run([sys.executable, "-P", *how, *argv[1:]], check=False)

    def out(self, *argv: str, user: str | None = None) -> str:
        done = self.run(*argv, user=user)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[Devcluster]:
    """One node for this file: its policies stay away from other tests."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    woken = {"daemon": {"interval_s": 120}}  # what it learns sooner it was woken for
    with Devcluster.up(
        ClusterSpec(name=f"test-cli-{os.getpid()}", nodes=1, users=("alice", "bob"), site=woken)
    ) as cluster:
        yield cluster


@pytest.fixture
def managed(small_cluster: Devcluster, tmp_path: Path) -> Iterator[Site]:
    site = Site(small_cluster)
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    site.out("slurmext", "policy", "apply", "-i", str(file))
    until(lambda: site.queues.exists() and "research\t1\t32\t" in site.queues.read_text())
    yield site
    small_cluster.cancel_all()


def submit(site: Site, user: str, *options: str) -> str:
    return site.out("sbatch", "--parsable", "-o", "/dev/null", *options, "--wrap", "sleep 60", user=user).strip()


def jobs(site: Site, user: str | None = None) -> dict[str, dict[str, Any]]:
    rows = json.loads(site.out("slurmext", "job", "list", "--json", user=user))
    return {row["job_id"]: row for row in rows}


def test_a_user_sees_his_own_jobs_and_no_others(managed: Site) -> None:
    """Over the daemon's socket, with the uid the kernel gives; a placement rule put Alice's job into prod."""
    hers, his = submit(managed, "alice", "--gres=gpu:1"), submit(managed, "bob", "--gres=gpu:1")
    until(lambda: {hers, his} <= jobs(managed).keys())
    assert hers in jobs(managed, "alice")
    assert his not in jobs(managed, "alice")
    assert jobs(managed)[hers]["queue"] == "prod"
    assert "in queue prod" in managed.out("slurmext", "job", "explain", hers, user="alice")
    denied = managed.run("slurmext", "job", "explain", hers, user="bob")
    assert (denied.returncode, hers in denied.stderr, "alice" in denied.stderr + denied.stdout) == (1, True, False)
    events = json.loads(managed.out("slurmext", "history", "--json", user="bob"))
    assert {event["job_id"] for event in events} <= {his}


def test_a_user_is_denied_another_queue_and_every_change(managed: Site) -> None:
    """At submit by job_submit, at the command line by uid."""
    refused = managed.run("sbatch", "--queue=prod", "--gres=gpu:1", "--wrap", "true", user="bob")
    assert refused.returncode != 0
    assert "user bob may not use it" in refused.stderr
    for command in (("queue", "set", "prod", "max=1", "-i"), ("policy", "export"), ("plan",)):
        denied = managed.run("slurmext", *command, user="bob")
        assert denied.returncode == 2, command
        assert "root" in denied.stderr
    rows = json.loads(managed.out("slurmext", "queue", "list", "--json", user="bob"))
    assert {row["path"]: row["may_use"] for row in rows} == {"research": True, "prod": False}


def test_a_change_of_the_policy_reaches_job_submit_at_once(managed: Site) -> None:
    """Queue set → daemon woken → the next sbatch is judged by it."""
    managed.out("slurmext", "queue", "set", "research", "guaranteed=2", "max=2", "-i")
    until(lambda: "research\t1\t2\t" in managed.queues.read_text())
    refused = managed.run("sbatch", "--queue=research", "--gres=gpu:4", "--wrap", "true", user="bob")
    assert "the queue may never have more than 2" in refused.stderr
    assert "# hers alone" in managed.out("slurmext", "policy", "export")


def test_without_the_daemon_root_still_looks_and_applies_and_others_are_told(managed: Site) -> None:
    """Questions fall back to the database; `daemon status` says what is wrong with exit code 1."""
    assert managed.run("slurmext", "daemon", "status").returncode == 0
    managed.cluster.kill("slurmextd")
    assert "research" in managed.out("slurmext", "queue", "list")
    managed.out("slurmext", "queue", "set", "research", "max=30", "-i")
    assert "1" in managed.out("slurmext", "policy", "list")
    alone = managed.run("slurmext", "job", "list", user="bob")
    assert (alone.returncode, "does not answer" in alone.stderr) == (1, True)
    status = managed.run("slurmext", "daemon", "status", "--json")
    assert status.returncode == 1
    managed.cluster.start("slurmextd")
    until(lambda: managed.run("slurmext", "job", "list", user="bob").returncode == 0)
