"""Questions to the daemon: what each user is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurmext.errors import SlurmextError, UsageError
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.planner import plan
from slurmext.service.forecast import Forecast
from slurmext.service.query import Queries, Viewer

from .conftest import NOW

if TYPE_CHECKING:
    from slurmext.service.query.context import World
    from slurmext.testing.memory_store import MemoryStore

ROOT = Viewer(user="root", sees_all=True)
BOB, CAROL, ALICE = (Viewer(user=name) for name in ("bob", "carol", "alice"))


def job_ids(queries: Queries, viewer: Viewer, **arguments: object) -> list[str]:
    return [row["job_id"] for row in queries.answer(viewer, "jobs", arguments)["jobs"]]


def test_a_user_sees_only_his_own_jobs(queries: Queries) -> None:
    """Root all, others theirs; who asks for another's is told that he may not, not that there are none."""
    assert job_ids(queries, ROOT) == ["40", "41", "42", "57", "60_1", "60_2"]
    assert job_ids(queries, BOB) == ["40", "41"]
    assert job_ids(queries, BOB, user="bob") == ["40", "41"]
    with pytest.raises(
        UsageError, match="only root and SlurmUser see what is carol's; without --user you see your own"
    ):
        job_ids(queries, BOB, user="carol")
    assert job_ids(queries, Viewer(user="eve"), ended=True) == []


@pytest.mark.parametrize("job", ["41", "42", "60"])
def test_another_users_job_is_as_unknown_as_one_that_does_not_exist(queries: Queries, job: str) -> None:
    """The answer does not tell whether it exists."""
    with pytest.raises(SlurmextError, match=f"no job '{job}' of eve is known"):
        queries.answer(Viewer(user="eve"), "job_explain", {"job": job})


def test_a_reused_job_id_shows_each_user_his_own(queries: Queries) -> None:
    """Carol's job 40 ended before Bob's job 40 began: events and checkpoints are told apart by time."""

    def events(viewer: Viewer) -> list[str]:
        return [event["message"] for event in queries.answer(viewer, "history", {"job": "40"})["events"]]

    assert events(CAROL) == ["carol's old job"]
    assert events(BOB) == []
    assert [c["path"] for c in queries.answer(CAROL, "checkpoints", {})["checkpoints"]] == ["/ckpt/40"]
    assert [c["path"] for c in queries.answer(BOB, "checkpoints", {})["checkpoints"]] == ["/ckpt/41"]
    assert queries.answer(BOB, "job_explain", {"job": "40"})["checkpoint"] is None


def test_who_waits_is_told_which_job_leaves_but_not_whose_it_is(queries: Queries) -> None:
    """That it is Bob's is not Alice's business."""
    (leaving,) = queries.answer(ALICE, "job_explain", {"job": "57"})["leaving_for_it"]
    assert leaving == {"job": "41", "state": "signalled", "since_s": NOW - 11, "from_queue": "research/nlp", "gpus": 4}


def test_an_unknown_job_is_answered_with_those_of_the_viewer(queries: Queries) -> None:
    """Numbers that look alike are other people's jobs: nobody is asked whether he meant those."""
    with pytest.raises(SlurmextError, match=r"no job '571' is known; slurmext looks after"):
        queries.answer(ROOT, "job_explain", {"job": "571"})
    with pytest.raises(SlurmextError, match=r"no job '571' of bob is known; yours now: 41, 40 "):
        queries.answer(BOB, "job_explain", {"job": "571"})
    with pytest.raises(SlurmextError, match="no job '57' of zoe is known; slurmext looks after"):
        queries.answer(Viewer(user="zoe"), "job_explain", {"job": "57"})


def test_queues_are_for_everyone_without_names_of_users(queries: Queries) -> None:
    """Numbers and whether I may submit; no ACL, no user limits."""
    rows = {row["path"]: row for row in queries.answer(BOB, "queues", {})["queues"]}
    assert rows["research"]["used"] == 24
    assert (rows["prod"]["may_use"], rows["research/nlp"]["may_use"], rows["research/vision"]["may_use"]) == (
        False,
        True,
        False,
    )
    assert not {"users", "acl"} & rows["research/nlp"].keys()
    member = Viewer(user="dan", groups=frozenset({"vision"}))
    assert {row["path"]: row["may_use"] for row in queries.answer(member, "queues", {})["queues"]}["research/vision"]


def test_history_without_a_job_is_my_jobs(queries: Queries) -> None:
    """Nothing of others, nothing of the daemon itself."""
    kinds = [(event["job_id"], event["kind"]) for event in queries.answer(BOB, "history", {})["events"]]
    assert kinds == [("41", "checkpoint"), ("41", "evict.signalled")]


def test_history_keeps_the_newest(queries: Queries) -> None:
    """A limit cuts off the oldest."""
    assert [e["kind"] for e in queries.answer(ROOT, "history", {"limit": 2})["events"]] == ["policy", "evict.signalled"]


def test_policy_text_is_root_only(queries: Queries) -> None:
    """It has names of users and groups."""
    for op in ("policy", "policies"):
        with pytest.raises(UsageError, match="root"):
            queries.answer(BOB, op, {})
    assert queries.answer(ROOT, "policy", {})["version"] == 1


def test_reasons_of_the_plan_are_mine_only(queries: Queries) -> None:
    """Root gets the whole plan."""
    assert queries.answer(CAROL, "plan", {}) == {"reasons": {"42": "X"}}
    assert queries.answer(ROOT, "plan", {})["reasons"].keys() == {"42", "57"}


@pytest.mark.parametrize("arguments", [{"job": 41}, {"nonsense": 1}, {"limit": "many"}, {"since_s": []}])
def test_wrong_arguments_are_usage_errors(queries: Queries, arguments: dict[str, object]) -> None:
    """Never a crash."""
    with pytest.raises(UsageError):
        queries.answer(ROOT, "jobs", arguments)


# with what only the daemon knows

QUEUES = (
    Queue(path="research", guaranteed=16, max=32), Queue(path="research/nlp", guaranteed=8),
    Queue(path="research/vision", guaranteed=8), Queue(path="prod", guaranteed=16, max=32),
)  # fmt: skip


def world() -> World:
    """research/nlp runs 32 GPUs, 16 of them lent by prod; 57 of prod and two of nlp wait."""
    running = [
        Job(id=str(n), queue="research/nlp", state=JobState.RUNNING, tasks=8, started_s=NOW - 100, time_limit_s=1000 + n,
            placement=(NodeGpus(node=f"n{n}", gpus=8),))
        for n in range(1, 5)
    ]  # fmt: skip
    waiting = [
        Job(id="57", queue="prod", state=JobState.PENDING, tasks=16),
        Job(id="42", queue="research/nlp", state=JobState.PENDING, tasks=8, submitted_s=NOW - 50),
        Job(id="43", queue="research/nlp", state=JobState.PENDING, tasks=8, submitted_s=NOW - 60),
    ]
    nodes = tuple(Node(name=f"n{n}", gpus=8) for n in range(1, 5))
    snapshot = Snapshot(now_s=NOW, nodes=nodes, queues=QUEUES, jobs=(*running, *waiting))
    return snapshot, plan(snapshot)


def informed(store: MemoryStore, seen: Forecast | None) -> Queries:
    return Queries(store=store, now=lambda: NOW, world=world, forecast=lambda _snapshot, _job: seen)


def test_a_waiting_job_is_told_who_leaves_who_is_before_it_and_when_it_starts(store: MemoryStore) -> None:
    """Victims within their grace; behind others by the planner's own clock, else by time limits."""
    taking = informed(store, None).answer(ALICE, "job_explain", {"job": "57"})
    assert taking["outlook"]["victims"] == ("1", "2")
    assert taking["estimate"] == {"start_s": NOW + 60, "how": "grace", "seen_s": None, "never": False}
    late = Forecast(start_s=NOW + 77, seen_s=NOW + 77)
    waiting = informed(store, late).answer(CAROL, "job_explain", {"job": "42"})
    assert (waiting["outlook"]["ahead_jobs"], waiting["outlook"]["ahead_gpus"]) == (1, 8)
    assert [end["job"] for end in waiting["outlook"]["next_ends"]] == ["1", "2", "3"]
    assert (waiting["estimate"]["start_s"], waiting["estimate"]["how"]) == (NOW + 77, "simulated")
    by_limits = informed(store, None).answer(CAROL, "job_explain", {"job": "42"})["estimate"]
    assert (by_limits["start_s"], by_limits["how"]) == (NOW + 901, "limits")


def test_without_a_daemon_there_is_no_outlook(queries: Queries) -> None:
    """The store alone does not know the cluster."""
    answer = queries.answer(CAROL, "job_explain", {"job": "42"})
    assert (answer["outlook"], answer["estimate"]) == (None, None)


def test_a_queue_is_told_its_fair_share_at_every_level_and_past_use(store: MemoryStore) -> None:
    """Of the last days, beside its siblings."""
    answer = informed(store, None).answer(BOB, "queue_explain", {"queue": "research/nlp", "since_s": NOW - 86400})
    account = answer["account"]
    assert [(level["parent"], [row["path"] for row in level["rows"]]) for level in account["levels"]] == [
        ("", ["prod", "research"]),
        ("research", ["research/nlp", "research/vision"]),
    ]
    assert account["share"] == 16
    assert any("research 16; they come from idle guarantees of prod 16" in line for line in answer["lines"])
    (used,) = answer["past_use"]
    assert used["queue"] == "research/nlp"
    assert used["gpu_h"] > (20 * 500 + 4 * 400) / 3600
    assert not {"users", "acl"} & answer["queues"][0].keys()


# over the socket


# from another host
