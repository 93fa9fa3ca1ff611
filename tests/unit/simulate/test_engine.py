"""The clock of the simulation: small worlds whose every second can be worked out by hand."""

from __future__ import annotations

import pytest

from slurmext.model.node import Node
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings
from slurmext.policy.invariants import Watch
from slurmext.policy.invariants.over_time import look_of
from slurmext.simulate.engine import Simulation
from slurmext.simulate.peers import QosPreemption, static
from slurmext.simulate.report import jain, percentile, report
from slurmext.simulate.track import Outcome, Track
from slurmext.simulate.workload import TraceJob
from slurmext.simulate.world import World

NODES = (Node(name="n1", gpus=8), Node(name="n2", gpus=8))
QUEUES = (Queue(path="prod", guaranteed=8), Queue(path="research", guaranteed=8))


def job(job_id: str, queue: str, submit_s: float, duration_s: float, gpus: int = 8, **more: object) -> TraceJob:
    return TraceJob(
        id=job_id,
        queue=queue,
        submit_s=submit_s,
        duration_s=duration_s,
        tasks=gpus,
        **more,  # type: ignore[arg-type]
    )


def play(*jobs: TraceJob, queues: tuple[Queue, ...] = QUEUES, world: World | None = None, **more: object) -> Outcome:
    broken: list[object] = []
    watch = Watch()
    simulation = Simulation(
        nodes=NODES,
        queues=queues,
        settings=Settings(grace_s=60),
        world=world or World(),
        observe=lambda snapshot, made: broken.extend(watch.look(look_of(snapshot, made))),
        **more,  # type: ignore[arg-type]
    )
    outcome = simulation.run(jobs)
    if "planner" not in more:
        assert broken == []
    return outcome


def tracks(outcome: Outcome) -> dict[str, Track]:
    return {track.trace.id: track for track in outcome.tracks}


def test_jobs_start_when_they_fit_and_end_when_their_work_is_done() -> None:
    """Two jobs fit at once, the third waits for the first to end."""
    found = tracks(play(job("a", "prod", 0, 100), job("b", "research", 10, 500), job("c", "prod", 20, 50)))
    assert found["a"].ended_s == 100
    assert found["b"].first_start_s == 10
    assert (found["c"].first_start_s, found["c"].ended_s) == (100, 150)


def test_a_victim_saves_leaves_and_loses_only_its_restart() -> None:
    """It works while it saves for 20 s, waits, restarts in 30 s and ends with all of its work done once."""
    found = tracks(play(job("a", "research", 0, 1000), job("b", "research", 0, 1000), job("p", "prod", 100, 200)))
    victim, kept = sorted((found["a"], found["b"]), key=lambda track: -track.evictions)
    assert (victim.evictions, kept.evictions) == (1, 0)
    assert found["p"].first_start_s == 120
    assert found["p"].longest_reclaim_s == 20
    assert victim.ended_s == 320 + 30 + (1000 - 120)
    assert victim.lost_gpu_s == 30 * 8
    assert kept.ended_s == 1000


@pytest.mark.parametrize(("every_s", "lost_s"), [(None, 100), (60, 40)])
def test_a_killed_victim_goes_back_to_its_last_periodic_checkpoint(every_s: float | None, lost_s: float) -> None:
    """Without a signal what was done since then is lost, and done again."""
    world = World(saves=False, checkpoint_every_s=every_s)
    found = tracks(
        play(job("a", "research", 0, 1000), job("b", "research", 0, 1000), job("p", "prod", 100, 200), world=world)
    )
    victim = max(found["a"], found["b"], key=lambda track: track.evictions)
    assert found["p"].first_start_s == 100
    assert victim.lost_gpu_s == (lost_s + 30) * 8
    assert victim.ended_s == 300 + 30 + 900 + lost_s


def test_a_job_that_ends_while_it_saves_is_not_requeued() -> None:
    """Its end comes first."""
    found = tracks(play(job("a", "research", 0, 110), job("b", "research", 0, 110), job("p", "prod", 100, 200)))
    assert found["a"].ended_s == found["b"].ended_s == 110
    assert found["a"].evictions == found["b"].evictions == 0


def test_an_elastic_job_gives_some_tasks_and_takes_longer() -> None:
    """8 of 16 tasks stay: the second half of the work takes twice as long."""
    found = tracks(play(job("e", "research", 0, 200, 16, min_tasks=4), job("p", "prod", 100, 1000)))
    assert found["p"].first_start_s == 100
    assert found["e"].ended_s == 300


def test_a_failed_node_requeues_its_jobs_and_comes_back() -> None:
    """What ran there starts again when it is up, from its last checkpoint."""
    world = World(failures=((50, "n1", 100), (50, "n2", 100)), checkpoint_every_s=None)
    found = tracks(play(job("a", "prod", 0, 100), world=world))
    assert found["a"].ended_s == 150 + 30 + 100
    assert found["a"].evictions == 0


def test_static_partitions_leave_what_is_idle_idle() -> None:
    """A queue that may only use its own share waits beside idle GPUs."""
    found = tracks(play(job("a", "research", 0, 100), job("b", "research", 0, 100), queues=static(QUEUES)))
    assert sorted(track.first_start_s or 0 for track in found.values()) == [0, 100]


def test_qos_preemption_kills_the_newest_low_job() -> None:
    """The second job of research was submitted over its quota: low, and killed for prod's."""
    qos = QosPreemption({"prod": 8, "research": 8})
    found = tracks(
        play(
            job("a", "research", 0, 1000), job("b", "research", 5, 1000), job("p", "prod", 100, 200),
            world=World(saves=False), planner=qos,
        )
    )  # fmt: skip
    assert (found["a"].evictions, found["b"].evictions) == (0, 1)
    assert found["p"].first_start_s == 100


def test_qos_preemption_keeps_what_is_idle_for_whom_it_kills() -> None:
    """The idle GPU and the 3 of its victim go to p; a low job that came with it does not get in between."""
    found = tracks(
        play(
            job("x", "research", 0, 1000, 12), job("a", "research", 5, 1000, 3),
            job("w", "research", 100, 1000, 1), job("p", "prod", 100, 200, 4),
            world=World(saves=False), planner=QosPreemption({"prod": 8, "research": 0}),
        )
    )  # fmt: skip
    assert found["p"].first_start_s == 100
    assert {name: track.evictions for name, track in found.items()} == {"x": 0, "a": 1, "w": 0, "p": 0}


def test_the_planner_sees_the_periodic_checkpoints() -> None:
    """At 3700 s the older job has saved 100 s ago, the newer one never: the older one loses less and goes."""
    found = tracks(
        play(job("old", "research", 0, 9000), job("new", "research", 1800, 9000), job("p", "prod", 3700, 10))
    )
    assert (found["old"].evictions, found["new"].evictions) == (1, 0)


def test_the_report_adds_up() -> None:
    """Utilisation over the window, waits, evictions and lost work of the victim's story."""
    outcome = play(
        job("a", "research", 0, 1000), job("b", "research", 0, 1000), job("p", "prod", 100, 200),
        job("z", "prod", 1000, 10, 1),
    )  # fmt: skip
    made = report(outcome)
    assert made.jobs == 4
    assert made.util == pytest.approx((1000 * 8 + (120 + 680) * 8 + 200 * 8) / (16 * 1000), rel=0.01)
    assert made.wait_mean_s == (0 + 0 + 20 + 0) / 4
    assert made.wait_gpu_mean_s == 20 * 8 / 25
    assert made.evictions == 1
    assert made.lost_gpu_h == pytest.approx(240 / 3600)
    assert made.breaches == 0
    assert made.longest_guaranteed_s == 20
    assert {queue.queue: queue.longest_reclaim_s for queue in made.queues} == {"prod": 20, "research": 0}


def test_percentile_and_fairness() -> None:
    """Nearest rank; Jain's index."""
    assert percentile([], 0.95) == 0
    assert percentile(list(range(1, 101)), 0.95) == 95
    assert jain([1, 1, 1, 1]) == 1
    assert jain([1, 0, 0, 0]) == 0.25
