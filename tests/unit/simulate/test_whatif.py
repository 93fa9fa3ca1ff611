"""What a what-if says over time, the world it is given, and its pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slurmext.errors import UsageError
from slurmext.model.node import Node
from slurmext.model.queue import Queue, QuotaChange
from slurmext.model.snapshot import Defragment, Settings
from slurmext.simulate import plot, whatif
from slurmext.simulate.history import Steps
from slurmext.simulate.report import MOST_BUCKETS, Report
from slurmext.simulate.timetable import Past, Tidy, Timetable
from slurmext.simulate.workload import TraceJob
from slurmext.simulate.world import World, failure, random_failures

NODES = (Node(name="n1", gpus=8), Node(name="n2", gpus=8))
QUEUES = (Queue(path="prod", guaranteed=8), Queue(path="research", guaranteed=8))
HOUR_S = 3600.0


def job(job_id: str, queue: str, submit_s: float, duration_s: float, gpus: int = 8, **more: object) -> TraceJob:
    return TraceJob(
        id=job_id, queue=queue, submit_s=submit_s, duration_s=duration_s, gpus_per_task=gpus, **more,  # type: ignore[arg-type]
    )  # fmt: skip


STORY = (
    job("a", "research", 0, 10 * HOUR_S),
    job("b", "research", 0, 10 * HOUR_S),
    job("p", "prod", 2 * HOUR_S, 2 * HOUR_S),
    job("late", "prod", 10 * HOUR_S, 60, 1),
)


def ask(*jobs: TraceJob, way: str = "slurmext", **world: object) -> Report:
    question = whatif.Question(nodes=NODES, jobs=jobs, world=World(**world))  # type: ignore[arg-type]
    return whatif.answer(question, QUEUES, Settings(grace_s=60), way=way)


def test_a_step_function_has_means() -> None:
    """4 from second 10, 8 from 20, nothing from 30 on."""
    steps = Steps()
    for at_s, value in ((10, 4), (20, 8), (20, 8), (30, 0)):
        steps.set(at_s, value)
    assert steps.means([0, 10, 15, 25, 40]) == [0, 4, 6, 8 * 5 / 15]
    assert steps.mean(0, 40) == (4 * 10 + 8 * 10) / 40


def test_steps_at_the_same_moment_leave_the_last() -> None:
    """What lasted no time is in no mean."""
    steps = Steps()
    steps.add(5, 3)
    steps.add(5, -3)
    assert steps.mean(0, 10) == 0


def test_queues_over_time() -> None:
    """Research uses its 8 and borrows 8, gives the borrowed ones back in hour 2, and takes them again in hour 4."""
    series = ask(*STORY).series
    at = {hour: round(hour * HOUR_S / series.bucket_s) for hour in (1, 3, 5)}
    research = series.queues["research"]
    assert [research.used[at[hour]] for hour in (1, 3, 5)] == [16, 8, 16]
    assert [research.within[at[hour]] for hour in (1, 3, 5)] == [8, 8, 8]
    assert [research.borrowed[at[hour]] for hour in (1, 3, 5)] == [8, 0, 8]
    assert [research.waiting_gpus[at[hour]] for hour in (1, 3, 5)] == [0, 8, 0]
    assert sum(research.evictions) == 1
    assert research.evictions[round((2 * HOUR_S + 20) // series.bucket_s)] == 1
    assert set(research.guaranteed) == {8}
    assert series.util[at[3]] == 1
    assert series.evictions == research.evictions


def test_a_long_history_has_no_more_points_than_can_be_drawn() -> None:
    """However long it is."""
    made = ask(*STORY, job("z", "prod", 4000 * HOUR_S, 60))
    assert len(made.series.util) <= MOST_BUCKETS
    assert made.series.bucket_s * len(made.series.util) >= 4000 * HOUR_S
    assert len(made.series.queues["prod"].used) == len(made.series.util)


def test_fairness_is_of_fair_shares_not_of_wishes() -> None:
    """Research wants twice its share and gets all of its share: that is fair. In one pool prod gets nothing of its."""
    trace = (
        job("a", "research", 0, HOUR_S),
        job("b", "research", 0, HOUR_S),
        job("p", "prod", 600, HOUR_S),
        job("z", "prod", HOUR_S, 60, 1),
    )
    ours, pool = ask(*trace), ask(*trace, way="pool")
    assert ours.fairness > 0.97
    assert pool.fairness < 0.8
    assert {queue.queue: round(queue.of_fair_share, 1) for queue in ours.queues} == {"prod": 1.0, "research": 1.0}
    assert pool.breaches == 1
    assert pool.breach_reasons == {"NO_FREE_GPUS": 1}


def test_partitions_are_measured_by_the_policys_fair_share() -> None:
    """Research could have had all 16 GPUs while prod wanted none; for half of the time it had half."""
    trace = (job("a", "research", 0, 9000), job("b", "research", 0, 9000))
    parts = {queue.queue: queue.of_fair_share for queue in ask(*trace, way="static").queues}
    assert parts["research"] == pytest.approx(0.75, abs=0.02)


def test_jobs_that_all_come_at_once_are_measured_until_they_have_ended() -> None:
    """There is no window between submissions then."""
    assert ask(job("a", "research", 0, HOUR_S)).util == 0.5


def test_a_job_that_never_starts_is_counted_and_in_no_wait() -> None:
    """No node has 9 GPUs."""
    made = ask(job("a", "research", 0, HOUR_S), job("wide", "prod", 0, HOUR_S, 9))
    assert made.never_started == 1
    assert made.wait_mean_s == 0


def test_utilisation_is_of_nodes_that_work() -> None:
    """With one of two nodes out of use all the time, 8 GPUs in use are all there are."""
    made = ask(job("a", "prod", 0, HOUR_S), job("z", "prod", HOUR_S, 60, 1), failures=((0.0, "n2", 1e6),))
    assert made.util == pytest.approx(1)


def test_a_victim_starts_again_after_the_requeue_delay() -> None:
    """Prod is gone after 60 s; the victim left at 20 s and may not come back before 320 s."""
    trace = (
        job("a", "research", 0, 1000),
        job("b", "research", 0, 1000),
        job("p", "prod", 0.5, 10),
        job("z", "prod", 2000, 1, 1),
    )
    quick, slow = ask(*trace), ask(*trace, requeue_delay_s=300)
    assert quick.series.queues["research"].used[2] > slow.series.queues["research"].used[2]
    assert sum(slow.series.queues["research"].waiting_jobs[:1]) < 1, "one that may not start yet does not wait"


def test_while_jobs_wait_plans_are_a_tick_apart_unless_a_victim_left() -> None:
    """C waits from second 1 on; prod's job of second 2 is seen at 101, and starts as soon as its victim has left."""
    trace = (
        job("a", "research", 0, 9000),
        job("b", "research", 0, 9000),
        job("c", "research", 1, 10),
        job("p", "prod", 2, 10),
    )
    waits = {queue.queue: queue.wait_mean_s for queue in ask(*trace, tick_s=100).queues}
    assert waits["prod"] == 99 + 20
    waits = {queue.queue: queue.wait_mean_s for queue in ask(*trace[:2], trace[3], tick_s=100).queues}
    assert waits["prod"] == 20, "nobody waited: it was seen at once"


def test_a_waiting_jobs_patience_wakes_the_planner() -> None:
    """preemption_delay_s is over at 300 s although nothing else happens then."""
    queues = (Queue(path="prod", guaranteed=8, preemption_delay_s=300), QUEUES[1])
    question = whatif.Question(
        nodes=NODES, jobs=(job("a", "research", 0, 9000), job("b", "research", 0, 9000), job("p", "prod", 1, 10))
    )
    made = whatif.answer(question, queues, Settings(grace_s=60))
    assert {queue.queue: queue.wait_mean_s for queue in made.queues} == {"prod": 320, "research": 0}


def test_a_calendar_changes_the_guarantee_in_the_middle() -> None:
    """From 1 h on prod is guaranteed all 16: both of its jobs run within the grace then."""
    night = (Queue(path="prod", guaranteed=16), Queue(path="research", guaranteed=0))

    def queues_at(now_s: float) -> tuple[tuple[Queue, ...], float | None]:
        if now_s >= HOUR_S:
            return night, None
        change = QuotaChange(at_s=HOUR_S, guaranteed=16)
        return (Queue(path="prod", guaranteed=8, changes=(change,)), QUEUES[1]), HOUR_S

    question = whatif.Question(
        nodes=NODES,
        jobs=(job("a", "research", 0, 9000), job("p", "prod", 0, 9000), job("q", "prod", 10, 9000)),
    )
    made = whatif.answer(question, QUEUES, Settings(grace_s=60), timetable=Timetable(queues_at=queues_at))
    assert {queue.queue: queue.wait_mean_s for queue in made.queues}["prod"] == pytest.approx((3600 - 10 + 20) / 2)
    assert made.series.queues["prod"].guaranteed[0] == 8
    assert made.series.queues["prod"].guaranteed[-1] == 16
    assert made.breaches == 0


def test_nodes_are_tidied_by_schedule() -> None:
    """Two jobs of 2 GPUs stay behind on two nodes; at 1 h one moves to the other, and a node is free for eight."""
    trace = (
        job("a", "research", 0, 9000, 2),
        job("x", "research", 0, 600, 6),
        job("b", "prod", 1, 9000, 2),
        job("z", "research", 5000, 60, 8),
    )
    question = whatif.Question(nodes=NODES, jobs=trace)
    settings = Settings(grace_s=60, requeue_delay_s=3)
    tidy = Tidy(wish=Defragment(worth_s=7200), after=lambda now_s: HOUR_S if now_s < HOUR_S else None)
    never = whatif.answer(question, QUEUES, settings)
    tidied = whatif.answer(question, QUEUES, settings, timetable=Timetable(tidy=tidy))
    assert tidied.moves == 1
    assert {queue.queue: queue.wait_mean_s for queue in tidied.queues} == {"prod": 0, "research": 0}
    assert max(queue.wait_mean_s for queue in never.queues) > 0, "without it z's room is made when z is there"


def test_what_was_borrowed_fades() -> None:
    """8 GPUs for a half-life are 4; after another one of none they are 2."""
    past = Past(half_life_s=100)
    found = []
    for at_s, borrowed in ((0, 8), (100, 0), (200, 0), (2000, 0)):
        past.bring_up(at_s)
        found.append(dict(past.gpus))
        past.borrowed = {"a": borrowed}
    assert found == [{}, {"a": 4}, {"a": 2}, {}]


def test_who_borrowed_lately_borrows_later() -> None:
    """One queue borrowed a node for an hour; when both want it, the other has it if past use counts."""
    queues = (Queue(path="aged"), Queue(path="fresh"), Queue(path="prod", guaranteed=8))
    trace = (
        job("p", "prod", 0, 9 * HOUR_S),
        job("o1", "aged", 0, HOUR_S),
        job("o2", "aged", 10, HOUR_S),
        job("n", "fresh", 20, HOUR_S),
    )
    question = whatif.Question(nodes=NODES, jobs=trace)
    waits = [
        {
            queue.queue: queue.wait_mean_s
            for queue in whatif.answer(question, queues, Settings(past_factor=factor)).queues
        }
        for factor in (0, 1)
    ]
    assert [found["fresh"] for found in waits] == [2 * HOUR_S - 20, HOUR_S - 20]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n1", "n1@12\\+4"),
        ("n1@x+4", "NODE@HOURS"),
        ("n1@1+0", "NODE@HOURS"),
        ("n1@-1+2", "NODE"),
        ("n9@1+1", "no node"),
    ],
)
def test_a_bad_failure_is_refused(text: str, said: str) -> None:
    """With an example, or with the nodes there are."""
    with pytest.raises(UsageError, match=said):
        failure(text, ["n1", "n2"])


def test_failures_are_given_or_drawn() -> None:
    """In hours; at random the same seed gives the same ones, about as many as was said."""
    assert failure("n1@12+4", ["n1"]) == (12 * HOUR_S, "n1", 4 * HOUR_S)
    names = [f"n{number}" for number in range(50)]
    drawn = random_failures(names, days_between=10, out_s=HOUR_S, until_s=100 * 24 * HOUR_S, seed=1)
    assert drawn == random_failures(names, days_between=10, out_s=HOUR_S, until_s=100 * 24 * HOUR_S, seed=1)
    assert drawn != random_failures(names, days_between=10, out_s=HOUR_S, until_s=100 * 24 * HOUR_S, seed=2)
    assert 400 < len(drawn) < 600


def test_nodes_are_scaled_by_type() -> None:
    """At least one of each; above 1 their likes are added."""
    nodes = (*NODES, Node(name="h1", gpus=4, gpu_type="h100"))
    assert [node.name for node in whatif.scaled(nodes, 0.5)] == ["n1", "h1"]
    assert [node.name for node in whatif.scaled(nodes, 2)] == ["n1", "n2", "n1+1", "n2+1", "h1", "h1+1"]


def test_jobs_are_put_where_the_policy_places_them() -> None:
    """A queue of the policy is taken by name, another by rule; nowhere is an error that says what to do."""
    jobs = [job("1", "prod", 0, 1), job("2", "physics", 0, 1, user="u")]
    known = {"prod", "research"}
    found = whatif.fitted(jobs, known, lambda job: "research" if job.queue == "physics" else None)
    assert [one.queue for one in found] == ["prod", "research"]
    with pytest.raises(UsageError, match="queue 'physics', which the policy does not have and places nowhere"):
        whatif.fitted(jobs, known, lambda _job: None)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    """PNG, SVG, and one HTML page that needs no network and does not take a queue's name for markup."""
    trace = (job("a", "research", 0, 3000), job("<b>", "prod", 0, 3000))
    reports = {way: ask(*trace, way=way) for way in ("slurmext", "static")}
    for name, start in (("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.html", b"<!doctype html>")):
        plot.draw(tmp_path / name, reports, title="a <week>")
        assert (tmp_path / name).read_bytes().startswith(start)
    page = (tmp_path / "p.html").read_text()
    assert "<svg" in page
    assert "a &lt;week&gt;" in page
    assert "<script" not in page
    assert not [word for word in page.split('"') if word.startswith(("http:", "https:")) and "w3.org" not in word
                and "purl.org" not in word and "creativecommons" not in word and "matplotlib.org" not in word]  # fmt: skip
    assert "guarantees broken" in page


def test_a_plots_name_says_what_it_is(tmp_path: Path) -> None:
    """Before anything is computed."""
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.html"):
        plot.check_path(tmp_path / "p.pdf")


def test_without_matplotlib_the_extra_is_named() -> None:
    """The rest works without it."""
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "from slurmext.cli.main import cli\n"
        "cli(['simulate', '-f', 'x', '--plot', 'p.png'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'slurmext[plot]'" in done.stderr
