"""The day in the simulator."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from live.history import History
from live.load import DAY_S, NODE_GPUS, WEEK_NODES, Load, node_names
from slurmext.config.policy import parse_policy
from slurmext.model.job import JobState
from slurmext.model.node import Node
from slurmext.model.plan import Plan
from slurmext.model.policy import Policy
from slurmext.model.snapshot import Snapshot
from slurmext.simulate import formats
from slurmext.simulate.engine import Simulation, World
from slurmext.simulate.workload import TraceJob

JITTER_S, REPEATS = 0.5, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Seconds on this cluster: from the call of sbatch to the script's first line, from a script's end to the next one's
    first line on the same GPUs, the same for a victim's, after its leaving until a victim may start again, and how long a
    cycle of slurmextd takes.
    """

    start_s: float
    gap_s: float
    reclaim_s: float
    requeue_s: float
    cycle_s: float


class Stopped(Exception):
    """The simulated time is over."""


@dataclass(slots=True, kw_only=True)
class Observer:
    """Follows a simulation and stops it at `until_s`."""

    until_s: float
    history: History = field(default_factory=History)
    left: Snapshot | None = None
    _open: dict[str, float] = field(default_factory=dict[str, float])

    def look(self, snapshot: Snapshot, made: Plan) -> None:
        """Every plan."""
        now_s = float(snapshot.now_s)
        running = {job.id for job in snapshot.jobs if job.state is JobState.RUNNING}
        for job in [job for job in self._open if job not in running]:
            self.history.runs.append((job, self._open.pop(job), min(now_s, self.until_s)))
        if now_s > self.until_s:
            self.history.runs += [(job, start_s, self.until_s) for job, start_s in self._open.items()]
            self.left = snapshot
            raise Stopped
        self.history.evictions += len(made.evict) + len(made.move)
        self._open |= {release.job: now_s for release in made.release}


def simulate(
    jobs: Iterable[TraceJob], nodes: Sequence[str], policy: Policy, world: World, until_s: float
) -> tuple[History, Snapshot | None]:
    """What the simulator makes of it, up to then."""
    observer = Observer(until_s=until_s)
    trace = list(jobs)
    cluster = tuple(Node(name=name, gpus=NODE_GPUS) for name in nodes)
    simulation = Simulation(
        nodes=cluster, queues=policy.queues, settings=policy.settings, world=world, observe=observer.look
    )
    try:
        simulation.run(trace)
    except Stopped:
        pass
    else:
        observer.history.runs += [(job, start_s, until_s) for job, start_s in observer._open.items()]
    observer.history.submits = {job.id: float(job.submit_s) for job in trace if job.submit_s <= until_s}
    return observer.history, observer.left


def the_day(folder: Path, nodes: int, *, hours: float, scale: float) -> Load:
    """The busiest day's first hours, with what runs or waits at its beginning; on fewer nodes every n-th job."""
    with (folder / "philly_vc_quota.csv").open() as file:
        whole = {row["vc"]: int(row["micro_gpus"]) for row in csv.DictReader(file)}
    quotas = {queue: gpus * nodes // WEEK_NODES for queue, gpus in whole.items()}
    week = sorted(formats.read(folder / "philly_micro_week.csv", "philly"), key=lambda job: job.submit_s)
    week = [job for job in week if job.gpus <= nodes * NODE_GPUS][:: WEEK_NODES // nodes]
    days = Counter(job.submit_s // DAY_S for job in week if job.submit_s > 0)
    begin_s = DAY_S * max(days, key=lambda day: (days[day], -day))
    load = Load(jobs=(), quotas=quotas, nodes=nodes, lasts_s=hours * 3600 / scale)
    before = [job for job in week if job.submit_s < begin_s]
    policy = parse_policy(load.policy(), "policy").as_model(1)
    history, left = simulate(before, node_names(nodes), policy, World(), begin_s)
    worked: Counter[str] = Counter()
    for job, start_s, end_s in history.runs:
        worked[job] += round(end_s - start_s)
    there = {job.id: job for job in left.jobs} if left else {}
    by_id = {job.id: job for job in before}
    old = sorted(there.values(), key=lambda job: (job.state is not JobState.RUNNING, job.submitted_s))
    jobs = [
        replace(by_id[job.id], submit_s=0.0, duration_s=max(60.0, by_id[job.id].duration_s - worked[job.id]))
        for job in old
    ]
    jobs += [
        replace(job, submit_s=job.submit_s - begin_s)
        for job in week
        if begin_s <= job.submit_s < begin_s + hours * 3600
    ]
    scaled = [replace(job, submit_s=job.submit_s / scale, duration_s=job.duration_s / scale) for job in jobs]
    return replace(load, jobs=tuple(scaled))


def together(submits: Mapping[str, float], cycle_s: float) -> dict[str, float]:
    """Submissions as slurmextd sees them: what comes while it is in a cycle is seen by the next one."""
    found: dict[str, float] = {}
    cycle_at_s = -cycle_s
    for job, at_s in sorted(submits.items(), key=lambda item: item[1]):
        if at_s > cycle_at_s:
            cycle_at_s = max(at_s, cycle_at_s + cycle_s)
        found[job] = cycle_at_s
    return found


def predict(load: Load, constants: Constants, submits: Mapping[str, float], jitter: random.Random | None) -> History:
    """The simulator's version, its times those of the jobs' scripts."""
    around_s = constants.gap_s
    submitted, submits = submits, together(submits, constants.cycle_s * (jitter.uniform(0.5, 2) if jitter else 1))
    jobs = [
        replace(
            job,
            submit_s=submits[job.id] + (jitter.uniform(0, JITTER_S) if jitter and job.submit_s else 0.0),
            duration_s=job.duration_s + around_s,
        )
        for job in load.jobs
        if job.id in submits
    ]
    world = World(
        save_s=constants.reclaim_s,
        restart_s=around_s,
        checkpoint_every_s=None,
        requeue_delay_s=max(0.0, constants.requeue_s - constants.start_s),
    )
    policy = parse_policy(load.policy(), "policy").as_model(1)
    names = node_names(load.nodes)
    if jitter:
        jitter.shuffle(names)
    history, _ = simulate(jobs, names, policy, world, load.lasts_s)
    history.submits = dict(submitted)
    after_s = max(0.0, constants.gap_s - constants.start_s)
    history.runs = [
        (job, start_s + constants.start_s, max(start_s + constants.start_s, end_s - after_s))
        for job, start_s, end_s in history.runs
        if start_s + constants.start_s <= load.lasts_s
    ]
    return history
