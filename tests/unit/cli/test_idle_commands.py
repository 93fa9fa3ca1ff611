"""`slurmext job show`, `extend` and what `list` and `explain` say of idle GPUs."""

from __future__ import annotations

import pytest

from slurmext.cli.explain import as_card, as_text
from slurmext.cli.formats import parse_span
from slurmext.errors import SlurmextError, UsageError
from slurmext.model.state import ActionKind, GpuActivity, GpuState, Intent, JobKey, JobRow, Notice
from slurmext.service.query import Queries, Viewer
from slurmext.testing.memory_store import MemoryStore

NOW = 10_000.0
POLICY = """version: 1
queues:
  research: {idle: {after_s: 600, max_extend_s: 7200}}
  prod: {}
"""
ROOT, ALICE, BOB = Viewer(user="root", sees_all=True), Viewer(user="alice"), Viewer(user="bob")
KEY = JobKey(job_id="12", submit_s=5000)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.apply_policy(POLICY, "root", 1.0)
    lease = store.acquire_lease("controller", "me", 1e9, 1.0)
    assert lease is not None
    alice = {"user": "alice", "queue": "research", "gpus": 12, "nodes": "n1,n2", "start_s": 6000.0}
    store.save_jobs(
        lease.token,
        [
            JobRow(job=KEY, state="running", **alice),
            JobRow(job=JobKey(job_id="13", submit_s=5000), state="pending", user="alice", queue="research"),
            JobRow(job=JobKey(job_id="14", submit_s=5000), state="running", user="alice", queue="prod", start_s=6000.0),
            JobRow(job=JobKey(job_id="15", submit_s=5000), state="completed", end_s=9000.0, user="alice",
                   queue="research"),
        ],
    )  # fmt: skip
    for node, gpus, mean in (("n1", 8, 60.0), ("n2", 4, 30.0)):
        store.record_gpu_activity(
            GpuActivity(job_id="12", node=node, state=GpuState.IDLE, at_s=9900, valid_until_s=10_100, started_s=6000,
                        gpus=gpus, idle_since_s=9000.0 if node == "n1" else 9200.0, mean_percent=mean,
                        peak_memory_mib=1000 * gpus)
        )  # fmt: skip
    notice = Notice(job=KEY, reason="IDLE_GPUS", since_s=9990.0, at_s=10_600.0, message="all its GPUs idle")
    store.replace_notices(lease.token, [notice])
    return store


@pytest.fixture
def woken() -> list[str]:
    return []


@pytest.fixture
def queries(store: MemoryStore, woken: list[str]) -> Queries:
    return Queries(store=store, now=lambda: NOW, changed=lambda: woken.append("cycle"))


def test_list_shows_what_a_running_job_will_have_to_leave_for(queries: Queries) -> None:
    """A running job has no reason of its own to wait; the notice takes that place."""
    rows = {row["job_id"]: row for row in queries.answer(ALICE, "jobs", {})["jobs"]}  # type: ignore[attr-defined]
    assert (rows["12"]["reason"], rows["12"]["message"]) == ("IDLE_GPUS", "all its GPUs idle")
    assert rows["14"]["reason"] == ""


def test_show_tells_use_idling_and_notice(queries: Queries) -> None:
    """Means are over all GPUs, peaks of one; the job idles since its last node does."""
    answer = queries.answer(ALICE, "job_show", {"job": "12"})
    assert answer["gpu_use"] == {
        "mean_percent": 50.0,
        "peak_memory_mib": 8000,
        "idle_since_s": 9200.0,
        "nodes": {"n1": "idle", "n2": "idle"},
    }
    text = "\n".join(as_card(answer))
    assert "50 % on average, at most 7.8 GiB of memory on one GPU" in text
    assert "(13 min 20 s); its queue allows 10 min" in text
    assert "(in 10 min)" in text
    assert "slurmext job extend 12 --for 1h" in text


def test_explain_tells_the_notice(queries: Queries) -> None:
    """The same words in the long account."""
    text = "\n".join(as_text(queries.answer(ALICE, "job_explain", {"job": "12"})))
    assert "It must leave at" in text
    assert "IDLE_GPUS: all its GPUs idle." in text


def test_an_owner_extends_a_job_and_takes_it_back(queries: Queries, store: MemoryStore, woken: list[str]) -> None:
    """It is kept from now on for so long, the timeline says by whom, and the daemon looks at once."""
    answer = queries.answer(ALICE, "job_extend", {"job": "12", "for_s": 7200})
    assert answer["keep_until_s"] == NOW + 7200
    assert store.extensions(until_s=NOW)[KEY].asked_by == "alice"
    assert [event.kind for event in store.events(job_id="12")] == ["extend"]
    assert woken == ["cycle"]
    text = "\n".join(as_card(queries.answer(ALICE, "job_show", {"job": "12"})))
    assert "by alice although its GPUs are idle" in text
    queries.answer(ALICE, "job_extend", {"job": "12", "for_s": 0})
    assert store.extensions(until_s=NOW) == {}


@pytest.mark.parametrize(
    ("viewer", "job", "for_s", "error", "words"),
    [
        (BOB, "12", 60, SlurmextError, "no job '12' of bob is known"),
        (ALICE, "99", 60, SlurmextError, "no job '99' of alice is known"),
        (ALICE, "13", 60, SlurmextError, "job 13 is pending: only a running job"),
        (ALICE, "15", 60, SlurmextError, "job 15 ended: only a running job"),
        (ALICE, "14", 60, SlurmextError, "queue prod lets its jobs idle"),
        (ALICE, "12", 7201, UsageError, "7201 s is too long: a job of queue research can be kept for 7200 s"),
        (ALICE, "12", None, UsageError, "say for how long"),
        (ALICE, "12", -5, UsageError, "say for how long"),
        (ALICE, "12", float("nan"), UsageError, "say for how long"),
        (ROOT, "12", 1e12, UsageError, "is too long"),
        (ALICE, "12", "2h", UsageError, "for_s='2h' is not understood"),
    ],
)
def test_what_cannot_be_extended(
    queries: Queries, store: MemoryStore, viewer: Viewer, job: str, for_s: object, error: type[Exception], words: str
) -> None:
    """Somebody else's job, one that does not run, too long: each is said, and nothing is written."""
    with pytest.raises(error, match=words):
        queries.answer(viewer, "job_extend", {"job": job, "for_s": for_s})
    assert store.extensions(until_s=0) == {}
    assert store.events() == []


def test_root_may_extend_anybodys_job_for_longer(queries: Queries) -> None:
    """The queue's limit is for owners."""
    answer = queries.answer(ROOT, "job_extend", {"job": "12", "for_s": 86400})
    assert answer["keep_until_s"] == NOW + 86400


def test_a_job_that_leaves_already_is_not_extended(queries: Queries, store: MemoryStore) -> None:
    """Its signal is sent: that is said instead of a promise that would not hold."""
    lease = store.current_lease("controller")
    assert lease is not None
    store.record_plan(lease.token, NOW, {}, [Intent(kind=ActionKind.EVICT, job=KEY, reason="IDLE_GPUS")])
    with pytest.raises(SlurmextError, match="job 12 is leaving already"):
        queries.answer(ALICE, "job_extend", {"job": "12", "for_s": 60})


def test_show_says_where_nobody_knows(queries: Queries, store: MemoryStore) -> None:
    """A driver that cannot be read is named rather than taken for idle."""
    unknown = GpuActivity(job_id="12", node="n2", state=GpuState.UNKNOWN, at_s=9950, valid_until_s=10_100,
                          started_s=6000, gpus=4)  # fmt: skip
    store.record_gpu_activity(unknown)
    answer = queries.answer(ALICE, "job_show", {"job": "12"})
    assert answer["gpu_use"]["idle_since_s"] is None  # type: ignore[index]
    assert "unknown: the driver of n2 cannot be read" in "\n".join(as_card(answer))


def test_durations() -> None:
    """As people write them; anything else is explained."""
    assert [parse_span(text) for text in ("0", "30m", "2h", "1h30m", "1d")] == [0, 1800, 7200, 5400, 86400]
    for wrong in ("", "2", "h", "2 h", "-1h", "1.5h", "2:00:00"):
        with pytest.raises(UsageError, match="is no duration; for example 30m"):
            parse_span(wrong)
