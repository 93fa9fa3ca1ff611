"""`slurmext simulate` and `slurmext policy diff --simulate` as a site uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from slurmext.cli.main import cli
from slurmext.cli.policy_simulate import site_history
from slurmext.cli.session import Session
from slurmext.config.site import SiteConfig
from slurmext.errors import SlurmextError
from slurmext.testing.memory_store import MemoryStore

CLUSTER = "version: 1\nnodes: {'n[1-2]': 8}\n"
OLD = "version: 1\nqueues:\n  prod: {guaranteed: 4}\n  research: {guaranteed: 12}\n"
NEW = "version: 1\nqueues:\n  prod: {guaranteed: 8}\n  research: {guaranteed: 8}\n"
TRACE = """\
id,queue,submit_s,duration_s,gpus_per_task
a,research,0,36000,8
b,research,0,36000,8
p,prod,7200,3600,8
z,prod,36000,60,1
"""
SACCT = """\
11|alice|prod|1793527200|3600|1|billing=2,gres/gpu=8|120|
12|bob|physics|1793527260|60|1|cpu=1,gres/gpu=1|UNLIMITED|slurmext/1 queue=research ckpt=auto held=1
12|bob|physics|1793527320|60|1|cpu=1,gres/gpu=1|UNLIMITED|a|pipe
"""

Invoke = Callable[..., click.testing.Result]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in (("cluster.yaml", CLUSTER), ("old.yaml", OLD), ("new.yaml", NEW), ("jobs.csv", TRACE)):
        (tmp_path / name).write_text(text)
    return tmp_path


def invoke(*words: object, session: Session | None = None) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, [str(word) for word in words], obj=session)


def simulate(files: Path, *words: object) -> click.testing.Result:
    return invoke(
        "simulate", "-f", files / "cluster.yaml", "--policy", files / "new.yaml", "--trace", files / "jobs.csv", *words
    )


def test_simulate_tells_everything_as_json(files: Path) -> None:
    """Totals, queues, and all of it over time."""
    told = json.loads(simulate(files, "--json", "--compare", "pool").stdout)
    ours = told["slurmext"]
    assert (ours["evictions"], ours["breaches"], ours["longest_guaranteed_s"]) == (1, 0, 20)
    assert told["pool"]["breaches"] == 1
    series = ours["series"]
    queue = series["queues"]["research"]
    assert len({len(series["util"]), len(series["fairness"]), len(queue["used"]), len(queue["borrowed"])}) == 1
    assert sum(queue["evictions"]) == 1
    assert max(queue["borrowed"]) == 8


def test_simulate_draws(files: Path) -> None:
    """A picture of what the table says."""
    done = simulate(files, "--plot", files / "p.html")
    assert done.exit_code == 0, done.output
    assert "<svg" in (files / "p.html").read_text()
    bad = simulate(files, "--plot", files / "p.pdf")
    assert bad.exit_code == 2
    assert ".png" in bad.output


def one(files: Path, *words: object) -> dict[str, float]:
    done = simulate(files, "--json", *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["slurmext"]


def test_the_world_can_be_changed(files: Path) -> None:
    """Failures, fewer and more nodes, more load, fewer days, dear saves and checkpoints: each shows."""
    usual = one(files)
    assert one(files, "--save-s", 60)["longest_guaranteed_s"] == 60
    assert one(files, "--scale-nodes", 1.5)["evictions"] == 0
    assert one(files, "--days", 0.05)["jobs"] == 2
    assert one(files, "--speedup", 4)["series"]["queues"]["prod"]["used"][31] > 0
    failed = one(files, "--fail", "n1@1+2", "--fail", "n2@1+2")
    assert failed["lost_gpu_h"] > usual["lost_gpu_h"]
    rare, often = (one(files, "--fail", "n1@1.5+2", "--checkpoint-every", every)["lost_gpu_h"] for every in (0, 600))
    assert rare > often
    assert one(files, "--fail-every-days", 0.2, "--seed", 3) == one(files, "--fail-every-days", 0.2, "--seed", 3)
    assert one(files, "--requeue-delay-s", 5000)["series"] != usual["series"]


def test_a_policy_that_promises_too_much_is_told(files: Path) -> None:
    """On standard error, beside the figures."""
    done = simulate(files, "--scale-nodes", 0.5)
    assert "guarantees 8 GPUs more than the nodes have" in done.stderr


def test_a_calendar_needs_the_time_the_trace_begins(files: Path) -> None:
    """2026-11-02 is a Monday: from 8 to 18 h prod is guaranteed all 16 GPUs, in the night none."""
    window = "calendar: [{start: '0 8 * * mon-fri', hours: 10, guaranteed: 16}]"
    policy = f"version: 1\nqueues:\n  prod: {{guaranteed: 0, {window}}}\n  research: {{guaranteed: 0}}\n"
    (files / "new.yaml").write_text(policy)
    missing = simulate(files)
    assert missing.exit_code == 2
    assert "--start 2026-11-02T00:00" in missing.output
    night, day = (
        json.loads(simulate(files, "--json", "--start", start).stdout)["slurmext"]
        for start in ("2026-11-02T18:00", "2026-11-02T07:00")
    )
    assert (night["evictions"], day["evictions"]) == (0, 2)


def test_a_snapshots_jobs_run_until_their_time_limits(files: Path) -> None:
    """R has an hour left of two; u has no limit and lasts as long as was said; p waits for r."""
    queues = [{"path": "prod", "guaranteed": 0}, {"path": "research", "guaranteed": 8}]
    running = {"queue": "research", "state": "running", "gpus_per_task": 8}
    jobs = [
        {**running, "id": "r", "started_s": 6400, "time_limit_s": 7200, "placement": [{"node": "n1", "gpus": 8}]},
        {**running, "id": "u", "started_s": 6400, "preemptible": False, "placement": [{"node": "n2", "gpus": 8}]},
        {"id": "p", "queue": "prod", "state": "pending", "gpus_per_task": 8, "time_limit_s": 600},
    ]
    nodes = [{"name": name, "gpus": 8} for name in ("n1", "n2")]
    (files / "now.json").write_text(
        json.dumps({"version": 1, "now_s": 10000, "nodes": nodes, "queues": queues, "jobs": jobs})
    )
    done = invoke("simulate", "-f", files / "now.json", "--json", "--unlimited-hours", 2)
    told = json.loads(done.stdout)["slurmext"]
    assert {queue["queue"]: queue["wait_mean_s"] for queue in told["queues"]} == {"prod": 3600, "research": 0}
    assert {queue["queue"]: queue["gpu_h"] for queue in told["queues"]}["research"] == 8 * (1 + 2)
    assert "1 jobs have no time limit; they last 2 h" in done.stderr


def diff(files: Path, *words: object, session: Session | None = None) -> click.testing.Result:
    return invoke("policy", "diff", files / "new.yaml", "--simulate", *words, session=session)


def test_two_policies_over_one_history(files: Path) -> None:
    """Prod's job waits for research's to end under the old one, and is served within the grace under the new one."""
    words = ("--against", files / "old.yaml", "--trace", files / "jobs.csv", "--cluster", files / "cluster.yaml")
    done = diff(files, *words, "--json")
    assert done.exit_code == 1, done.output  # something would change
    told = json.loads(done.stdout)
    assert {change["where"] for change in told["changes"]} == {"prod", "research"}
    waits = [
        {queue["queue"]: queue["wait_mean_s"] for queue in told[when]["queues"]}["prod"] for when in ("before", "after")
    ]
    assert waits == [(36000 - 7200) / 2, 10]
    table = diff(files, *words, "-P", "-n", "-o", "queue,wait_mean_s_before,WaitMeanAfter,Evictions")
    assert table.stdout.splitlines() == ["prod|14400|10|0", "research|0|0|0 -> 1"]
    assert "~ prod guaranteed: 4 -> 8" in diff(files, *words).stdout


def test_against_the_policy_in_force_over_the_sites_own_history(files: Path, tmp_path: Path) -> None:
    """The store has the policy, sacct the jobs: queues as slurmext noted them, else by account or placement."""
    store = MemoryStore()
    store.apply_policy(OLD, "root", 0)
    (files / "new.yaml").write_text(NEW + "placement: [{account: physics, queue: research}]\n")
    site = with_sacct(tmp_path, SACCT)
    session = Session(site=site, store=store, now=lambda: 0.0, uid=0)
    refused = diff(files, "--cluster", files / "cluster.yaml", session=session)
    assert refused.exit_code == 2
    assert "jobs of queue 'physics'" in refused.output, "the old policy has no placement for them"
    store.apply_policy(OLD + "settings: {default_queue: research}\n", "root", 1)
    done = diff(files, "--cluster", files / "cluster.yaml", "--json", "--days", 2, session=session)
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    assert {queue["queue"]: queue["jobs"] for queue in told["after"]["queues"]} == {"prod": 1, "research": 2}
    assert "-S now-48hours" in (tmp_path / "asked").read_text()


def with_sacct(tmp_path: Path, answer: str, code: int = 0) -> SiteConfig:
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "answer").write_text(answer)
    sacct = tmp_path / "bin" / "sacct"
    where = "&2" if code else "&1"
    sacct.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {tmp_path}/answer >{where}\nexit {code}\n')
    sacct.chmod(0o755)
    return SiteConfig.model_validate(
        {
            "version": 1, "cluster": "dev", "database": f"sqlite:///{tmp_path}/x.db", "run_dir": str(tmp_path),
            "slurm": {"bin_dir": str(tmp_path / "bin"), "conf": None, "user": "root"},
        }
    )  # fmt: skip


def test_history_out_of_sacct(tmp_path: Path) -> None:
    """A job that ran twice is two jobs; times count from the first; a comment may contain what parts fields."""
    jobs, start_s = site_history(with_sacct(tmp_path, SACCT), 30)
    assert start_s == 1793527200
    assert [(job.queue, job.submit_s, job.gpus) for job in jobs] == [
        ("prod", 0, 8), ("research", 60, 1), ("physics", 120, 1),
    ]  # fmt: skip
    assert len({job.id for job in jobs}) == 3


@pytest.mark.parametrize(
    ("answer", "code", "said"), [("Slurm accounting storage is disabled", 1, "disabled"), ("", 0, "no GPU job")]
)
def test_no_history_names_the_way_out(tmp_path: Path, answer: str, code: int, said: str) -> None:
    """A trace can be given instead."""
    with pytest.raises(SlurmextError, match=f"{said}.*--trace jobs.csv"):
        site_history(with_sacct(tmp_path, answer, code), 30)


def test_nothing_to_compare_with(files: Path) -> None:
    """No policy was applied yet."""
    session = Session(site=with_sacct(files, ""), store=MemoryStore(), now=lambda: 0.0, uid=0)
    done = diff(files, "--trace", files / "jobs.csv", "--cluster", files / "cluster.yaml", session=session)
    assert done.exit_code == 2
    assert "--against OLD.yaml" in done.output
