"""Killing what is left of a requeued job: its processes, all of them, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmext.agent.ending import end_job
from tests.waiting import until

JOB, OTHER = 4_100_000_001, 4_100_000_002
"""Ids that no Slurm on this machine gives."""
SCRIPT = "trap '' TERM; (while :; do sleep 60; done) & while :; do sleep 60; done"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a slurmstepd is one only as root's process")


class Step:
    """A process named as slurmstepd names itself, with a shell that ignores TERM below it."""

    def __init__(self, job_id: int, conf: str | None = None) -> None:
        env = {"PATH": os.environ["PATH"], **({"SLURM_CONF": conf} if conf else {})}
        # Two commands, so that the shell stays and is the "slurmstepd" with the job's shell as its child.
        stay = f"/bin/bash -c '{SCRIPT.replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}'; sleep 60"
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", f'exec -a "slurmstepd: [{job_id}.batch]" /bin/bash -c "$0"', stay], env=env
        )
        until(lambda: len(self.below()) >= 4)

    def below(self) -> list[int]:
        """Every process below it."""
        found: list[int] = []
        rows = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        parents = {int(pid): int(ppid) for pid, ppid in (row.split() for row in rows.splitlines())}
        for pid in parents:
            above = pid
            while above in parents and above != self.process.pid:
                above = parents[above]
            if above == self.process.pid and pid != above:
                found.append(pid)
        return found


@pytest.fixture
def steps() -> Iterator[list[Step]]:
    started: list[Step] = []
    yield started
    for step in started:
        for pid in [*step.below(), step.process.pid]:
            subprocess.run(["kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)
        step.process.wait()


def test_every_process_of_the_job_goes_and_the_stepd_stays(steps: list[Step]) -> None:
    """A shell that ignores TERM, its background loop and their children; the stepd goes on to report the end."""
    steps += [Step(JOB), Step(OTHER)]
    victims, others = steps[0].below(), steps[1].below()
    assert len(victims) >= 4
    assert end_job(JOB, started_before_s=time.time() + 5, cluster="mine") == len(victims)
    until(lambda: not set(victims) & set(steps[0].below()))
    assert steps[0].process.poll() is None
    assert set(others) <= set(steps[1].below())


def test_a_run_that_began_later_is_left_alone(steps: list[Step]) -> None:
    """The order came late: the job has been started again."""
    steps.append(Step(JOB))
    assert end_job(JOB, started_before_s=time.time() - 60, cluster="mine") == 0
    assert len(steps[0].below()) >= 4


def test_a_job_of_another_cluster_on_this_host_is_left_alone(steps: list[Step], tmp_path: Path) -> None:
    """Same id, but the slurm.conf that its slurmstepd was started with names another cluster, or is gone."""
    conf = tmp_path / "slurm.conf"
    conf.write_text("# a cluster\nclustername = Theirs  # not ours\n")
    steps.append(Step(JOB, conf=str(conf)))
    assert end_job(JOB, started_before_s=time.time() + 5, cluster="mine") == 0
    conf.rename(tmp_path / "moved")
    assert end_job(JOB, started_before_s=time.time() + 5, cluster="theirs") == 0
    (tmp_path / "moved").rename(conf)
    assert end_job(JOB, started_before_s=time.time() + 5, cluster="theirs") >= 4


def test_nothing_is_left_of_a_job_that_is_gone() -> None:
    """No process, no kill."""
    assert end_job(JOB, started_before_s=time.time(), cluster="mine") == 0
