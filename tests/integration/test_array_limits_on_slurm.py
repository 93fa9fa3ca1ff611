"""Arrays with a task limit (`--array=0-7%2`): as many tasks run as may, one after the other, and none is taken back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from slurmext.model.state import ActionKind, ActionState

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.cluster

RUN_S = 1.2
STAMPED = f"date +%s.%N; sleep {RUN_S}; date +%s.%N"
IDLE_S = 3.5
"""Slurm itself looks at arrays that wait about once a second, and takes one to end a job."""
BEHIND_S = 2.0
"""So much longer than in an array that is Slurm's alone, beside it, a pause may be: that one shows how slow all is."""


def runs(site: Site, user: str, name: str, count: int) -> list[tuple[float, float]]:
    """When each task ran, in the order they began."""
    files = [site.cluster.home(user) / f"{name}{number}.out" for number in range(count)]
    found = sorted(tuple(map(float, file.read_text().split())) for file in files)
    return [(begun, ended) for begun, ended in found]


def taken_back(site: Site, *jobs: str) -> list[str]:
    """Releases of these jobs, or of tasks of these arrays, that started nothing."""
    return [
        f"{action.job.job_id}: {action.message}"
        for action in site.store.actions(limit=500)
        if action.job.job_id.partition("_")[0] in jobs
        and action.kind is ActionKind.RELEASE
        and action.state in {ActionState.ABANDONED, ActionState.REFUSED, ActionState.FAILED}
    ]


def longest_gap(times: list[tuple[float, float]], most: int) -> float:
    """How long fewer than `most` ran at worst, between the first start and the last."""
    return max(later[0] - earlier[1] for earlier, later in zip(times, times[most:], strict=False))


def most_at_once(times: list[tuple[float, float]]) -> int:
    return max(sum(begun <= at < ended for begun, ended in times) for at, _ in times)


def test_tasks_of_limited_arrays_run_in_turn_and_leave_gpus_to_others(site: Site) -> None:
    """No more than may, never with a pause, and nobody else waits for GPUs that they do not use."""
    one, two = (
        site.submit("alice", "--gres=gpu:8", f"--array=0-{last}%{most}", f"--output={most}_%a.out",
                    "--open-mode=truncate", script=STAMPED)
        for most, last in ((1, 3), (2, 6))
    )  # fmt: skip
    beside = site.submit("bob", "--queue=prod", "--gres=gpu:8", script="true")
    site.submit("bob", "--array=0-3%1", "--output=plain_%a.out", "--open-mode=truncate", script=STAMPED)
    site.until(lambda: site.reason(f"{one}_3") == site.reason(f"{two}_6") == "ARRAY_MAX")
    assert "one runs at a time" in site.slurmext("job", "explain", f"{one}_3")
    site.until(lambda: not site.states(), 60)
    longest_s = max(IDLE_S, longest_gap(runs(site, "bob", "plain_", 4), 1) + BEHIND_S)
    for most, count in ((1, 4), (2, 7)):
        times = runs(site, "alice", f"{most}_", count)
        assert most_at_once(times) == most
        assert longest_gap(times, most) < longest_s
    assert taken_back(site, one, two, beside) == []


@pytest.mark.slow
def test_a_limit_is_followed_when_its_user_changes_it_and_when_a_task_comes_back(site: Site) -> None:
    """Raised, more tasks start at once; a task that was requeued is not one too many."""
    array = site.submit("alice", "--gres=gpu:1", "--array=0-5%1", "--output=limited_%a.out", "--open-mode=truncate",
                        script="echo begun; sleep 60")  # fmt: skip
    site.until_running(f"{array}_0")
    site.scontrol("update", f"JobId={array}", "ArrayTaskThrottle=3", user="alice")
    site.until_running(*(f"{array}_{number}" for number in range(3)))
    second = site.cluster.home("alice") / "limited_1.out"
    site.until(lambda: second.exists() and second.read_text())
    site.scontrol("requeue", f"{array}_1", user="alice")
    site.until(lambda: sorted(site.states().values()).count("RUNNING") == 3 and site.state(f"{array}_1") == "PENDING")
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        assert list(site.states().values()).count("RUNNING") == 3, site.states()
        time.sleep(0.2)
    site.scontrol("update", f"JobId={array}", "ArrayTaskThrottle=0", user="alice")
    site.until(lambda: list(site.states().values()).count("RUNNING") == 6)
    assert taken_back(site, array) == []


@pytest.mark.slow
def test_tasks_of_a_limited_array_have_slices_in_turn(sliced: Site) -> None:
    """None misses a slice, and another's job has its own meanwhile."""
    array = sliced.submit(
        "alice", "--gpu-slice=1g.10gb", "--mem=10", "--array=0-2%1", "--output=task_%a.out", "--open-mode=truncate",
        script=STAMPED,
    )  # fmt: skip
    sliced.until(lambda: sliced.reason(f"{array}_2") == "ARRAY_MAX")
    sliced.until(lambda: sliced.store.slices(active=True))
    assert len(sliced.store.slices(active=True)) == 1, "one task has its slice, nothing is kept for the others"
    sliced.until(lambda: not sliced.states(), 90)
    times = runs(sliced, "alice", "task_", 3)
    assert most_at_once(times) == 1
    assert longest_gap(times, 1) < IDLE_S
    assert taken_back(sliced, array) == []
    assert not [one for one in sliced.store.slices(active=False) if one.job.job_id.startswith(array) and one.why]
