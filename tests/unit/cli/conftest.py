"""A seeded memory store, a site in a temporary directory, and a runner that calls the whole command line."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click.testing
import pytest

from slurmext.cli.main import cli
from slurmext.cli.session import Session
from slurmext.config.site import SiteConfig
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import (
    ActionKind,
    ActionState,
    CheckpointRecord,
    Event,
    Intent,
    JobKey,
    JobRow,
    PreemptionRecord,
)
from slurmext.service.query import Queries
from slurmext.testing.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0
POLICY = """\
# two teams
version: 1
settings: {default_queue: research/nlp}
queues:
  research:
    guaranteed: 16   # half of the cluster
    max: 32
    children:
      nlp: {guaranteed: 50%, users: {bob: {max: 4}}}
      vision: {guaranteed: 8, acl: {groups: [vision]}}
  prod: {guaranteed: 16, max: 32, acl: {users: [alice]}}
"""


def row(job_id: str, *, submit_s: int = int(NOW) - 600, **more: object) -> JobRow:
    return JobRow(job=JobKey(job_id=job_id, submit_s=submit_s), **more)


@pytest.fixture
def store() -> MemoryStore:
    """research/nlp (bob, carol) has borrowed; prod's job 57 (alice) takes GPUs back from job 41 (bob)."""
    made = MemoryStore()
    lease = made.acquire_lease("controller", "ctl:1", 3600, NOW)
    assert lease is not None
    made.apply_policy(POLICY, "root", NOW - 3600)
    made.save_jobs(
        lease.token,
        [
            row("40", submit_s=int(NOW) - 5000, user="carol", queue="prod", state="running", gpus=1, end_s=NOW - 4000),
            row("40", user="bob", queue="research/nlp", state="running", gpus=20, nodes="n[1-3]", start_s=NOW - 500),
            row("41", user="bob", name="train [red]x", queue="research/nlp", state="running", gpus=4, ckpt="auto",
                nodes="n1", start_s=NOW - 400, preempted=1),
            row("42", user="carol", queue="research/nlp", state="pending", gpus=8, reason="BEHIND_IN_QUEUE"),
            row("57", user="alice", queue="prod", state="pending", gpus=16, reason="RECLAIMING",
                message="4 of 16 GPUs are still in use"),
            row("60_1", user="alice", queue="prod", state="pending", gpus=1, reason="QUEUE_MAX"),
            row("60_2", user="alice", queue="prod", state="pending", gpus=1, reason="QUEUE_MAX"),
        ],
    )  # fmt: skip
    detail = {"beneficiary": "57", "from_queue": "research/nlp", "to_queue": "prod", "gpus": 4}
    intent = Intent(
        kind=ActionKind.EVICT,
        job=JobKey(job_id="41", submit_s=int(NOW) - 600),
        reason="RECLAIM_GUARANTEE",
        detail=detail,
    )
    action = made.record_plan(lease.token, NOW - 12, {}, [intent])[0]
    made.advance(lease.token, action.id, ActionState.SIGNALLED, NOW - 11, message="sent USR1")
    made.record_preemption(
        lease.token,
        PreemptionRecord(
            victim=JobKey(job_id="41", submit_s=int(NOW) - 600), victim_user="bob", beneficiary="55",
            reason="RECLAIM_GUARANTEE", from_queue="research/nlp", to_queue="prod", gpus=4, lost_gpu_s=120,
            signalled_s=NOW - 450, confirmed_s=NOW - 440, ended_s=NOW - 439,
        ),
    )  # fmt: skip
    for user_job, at in (("40", NOW - 4500), ("41", NOW - 440)):
        made.record_checkpoint(
            CheckpointRecord(job_id=user_job, step=300, path=f"/ckpt/{user_job}", size_bytes=3 << 20, saved_s=at,
                             confirmed_s=at, node="n1")
        )  # fmt: skip
    made.record_event(
        Event(at_s=NOW - 4500, source="agent:n1", kind="checkpoint", job_id="40", message="carol's old job")
    )
    made.record_event(Event(at_s=NOW - 440, source="agent:n1", kind="checkpoint", job_id="41", message="step 300"))
    made.record_event(Event(at_s=NOW - 430, source="daemon", kind="policy", message="policy 1 taken up"))
    return made


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return SiteConfig(version=1, cluster="test", run_dir=tmp_path)


def _idle() -> Snapshot:
    return Snapshot(now_s=NOW)


Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(store: MemoryStore, site: SiteConfig) -> Run:
    """`run('queue', 'list')` as root with the database; `uid=` another user, `store=` another store."""

    def call(*arguments: str, uid: int = 0, **session: object) -> click.testing.Result:
        given = {"site": site, "store": store, "now": lambda: NOW, "uid": uid, "look": _idle, **session}
        stdin = given.pop("stdin", None)
        return click.testing.CliRunner().invoke(cli, list(arguments), obj=Session(**given), input=stdin)

    return call


@pytest.fixture
def seeded() -> SimpleNamespace:
    return SimpleNamespace(now=NOW, policy=POLICY)


@pytest.fixture
def queries(store: MemoryStore) -> Queries:
    live = {
        "status": lambda: {"cycle": {"at_s": NOW}, "agents": ["n1"]},
        "plan": lambda: {"reasons": {"42": "X", "57": "Y"}},
    }
    return Queries(store=store, now=lambda: NOW, live=live)
