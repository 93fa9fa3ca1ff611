"""Training of several ranks that is reclaimed, cancelled, resized: it ends as if nobody had touched it."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slurmext.devcluster import Devcluster
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster

TRAIN = ("--sentences=256", "--workers=1", "--load-time=0.002")
PACE = ("--step-time=0.1", "--eval-time=1.5", "--compile-time=1.5", "--every=3")


def install(site: Site, user: str) -> Path:
    program = site.cluster.home(user) / "train_torch.py"
    program.write_text((programs.EXAMPLES / "train_torch.py").read_text())
    return program


def borrow(site: Site, *, script: str, options: tuple[str, ...] = ()) -> str:
    """Alice's job on 16 GPUs of prod's, because one of hers that never leaves has research's own."""
    site.submit("alice", "--queue=research", "-N2", "--gres=gpu:8", "--no-preempt", script="sleep 600")
    return site.submit("alice", "--queue=research", "--ckpt=auto", "-N2", "--gres=gpu:8", *options, script=script,
                       env=programs.environment(site))  # fmt: skip


def reclaim(site: Site, job: str) -> None:
    """Prod takes its GPUs back; the job is requeued, and runs again soon."""
    before = site.job(job).restarts
    owner = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8", script="sleep 0.5")
    site.until(lambda: site.job(job).restarts > before)
    site.until_ended(owner)
    site.until_running(job)


def line(site: Site, job: str, what: str, count: int) -> None:
    """Until the job's output has this line so often, or it has ended."""
    site.until(lambda: site.output("alice", job).count(what) >= count or site.state(job) in {"COMPLETED", "FAILED"}, 90)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("epochs", "moments"),
    [
        (3, ("loads", "evaluates")),
        pytest.param(8, ("compiles", "evaluates", "any", "loads", "any"), marks=pytest.mark.slow),
    ],
)
def test_four_ranks_reclaimed_at_any_moment(site: Site, epochs: int, moments: tuple[str, ...]) -> None:
    """Weights and order of data are those of an undisturbed run to the last bit, whatever each rank was doing."""
    python, program = programs.python_with("torch"), install(site, "alice")
    compiles = ("--compile=eager",) if "compiles" in moments else ()
    arguments = (*TRAIN, *compiles, f"--epochs={epochs}")
    scratch = site.cluster.home("alice") / "undisturbed"
    port = 20000 + os.getpid() % 10000
    reference = programs.undisturbed(
        programs.EXAMPLES / "train_torch.py", [*arguments, f"--dir={scratch}"], world=4, port=port
    )
    wanted = programs.results("".join(process.communicate(timeout=200)[0] for process in reference))
    assert len(wanted) == 4
    job = borrow(site, script=f"srun {python} {program} {' '.join((*arguments, *PACE))}", options=("-n4",))
    chance = random.Random(7)
    for runs, moment in enumerate(moments, 1):
        line(site, job, "started" if runs == 1 else "resumed at", max(1, runs - 1))
        if moment == "evaluates":
            line(site, job, "evaluating", site.output("alice", job).count("evaluating") + 1)
            time.sleep(0.3)
        elif moment == "compiles":
            time.sleep(0.5)
        else:
            time.sleep(1 + 2 * chance.random())
        reclaim(site, job)
    site.until(lambda: site.state(job) in {"COMPLETED", "FAILED"}, 120)
    text = site.output("alice", job)
    assert programs.results(text) == wanted, text
    assert site.job(job).restarts == len(moments)
    lines = site.store.preemptions(job_id=job)
    assert len(lines) == len(moments)
    assert all(each.confirmed_s is not None for each in lines), text


def test_the_output_goes_on_after_a_requeue(new_cluster: Callable[..., Devcluster]) -> None:
    """A job with --ckpt keeps what it printed, unless the user wants it otherwise; nested sbatches know nothing of it."""
    cases = {
        "option": (["--ckpt=auto"], "", {}, True),
        "line": ([], "#SBATCH --ckpt=auto", {}, True),
        "twin": ([], "", {"SLURMEXT_CKPT": "auto"}, True),
        "truncate": (["--ckpt=auto", "--open-mode=truncate"], "", {}, False),
        "without": ([], "", {}, False),
    }
    cluster = new_cluster(nodes=1, conf={"JobFileAppend": "0", "KillWait": "2"})
    jobs = {}
    for name, (options, line_, env, _) in cases.items():
        script = cluster.home("alice") / f"{name}.sh"
        script.write_text(
            f"#!/bin/sh\n{line_}\necho run ${{SLURM_RESTART_COUNT:-0}} mode ${{SBATCH_OPEN_MODE:-none}}\nsleep 60\n"
        )
        argv = ["sbatch", "--parsable", "--requeue", f"--output={name}.out", *options, str(script)]
        jobs[name] = cluster.run(argv, user="alice", env=env).stdout.strip()

    def wait(text: str) -> None:
        deadline = time.monotonic() + 60
        paths = [cluster.home("alice") / f"{name}.out" for name in cases]
        while not all(path.exists() and text in path.read_text() for path in paths):
            assert time.monotonic() < deadline, cluster.out("squeue")
            time.sleep(0.2)

    wait("run 0 mode none")
    for job in jobs.values():
        cluster.run(["scontrol", "requeue", job])
    time.sleep(3)
    for job in jobs.values():
        cluster.run(["scontrol", "update", f"jobid={job}", "StartTime=now+1"])
    wait("run 1 mode none")
    kept = {name: "run 0" in (cluster.home("alice") / f"{name}.out").read_text() for name in cases}
    assert kept == {name: case[3] for name, case in cases.items()}
