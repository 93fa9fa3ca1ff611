"""Training of several ranks that is reclaimed, cancelled, resized: it ends as if nobody had touched it."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration import programs

if TYPE_CHECKING:
    from pathlib import Path

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
    chance, runs = random.Random(7), 0
    for moment in moments:
        runs += 1
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
