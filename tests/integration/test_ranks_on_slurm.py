"""Training of several ranks that is reclaimed, cancelled, resized: it ends as if nobody had touched it."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from slurmext.demo import records
from tests.integration import programs
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slurmext.devcluster import Devcluster
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster

TRAIN = ("--sentences=256", "--workers=1", "--load-time=0.002")
FAST_PACE = ("--step-time=0.05", "--eval-time=0.5", "--every=3")
PACE = ("--step-time=0.1", "--eval-time=1.5", "--compile-time=1.5", "--every=3")


def install(site: Site, user: str) -> Path:
    program = site.cluster.home(user) / "train_torch.py"
    program.write_text((programs.EXAMPLES / "train_torch.py").read_text())
    return program


def forked(site: Site, user: str) -> Path:
    """What starts ranks by forking, as torchrun does from the batch script itself."""
    program = site.cluster.home(user) / programs.FORKED.name
    program.write_text(programs.FORKED.read_text())
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
    ("launcher", "epochs", "moments"),
    [
        ("forked", 6, ("loads", "evaluates")),
        pytest.param("srun", 8, ("compiles", "evaluates", "any", "loads", "any"), marks=pytest.mark.slow),
    ],
)
def test_four_ranks_reclaimed_at_any_moment(site: Site, launcher: str, epochs: int, moments: tuple[str, ...]) -> None:
    """Weights and order of data are those of an undisturbed run to the last bit, whatever each rank was doing."""
    python, program = programs.python_with("torch"), install(site, "alice")
    compiles = ("--compile=eager",) if "compiles" in moments else ()
    arguments = (*TRAIN, *compiles, f"--epochs={epochs}")
    wanted = programs.undisturbed([*arguments, f"--dir={site.cluster.home('alice')}/undisturbed"], world=4)
    assert len(wanted) == 4
    command = f"{program} {' '.join((*arguments, *(PACE if launcher == 'srun' else FAST_PACE)))}"
    port = "export MASTER_PORT=$((MASTER_PORT + ${SLURM_RESTART_COUNT:-0}))"
    started = f"{port}; srun {python}" if launcher == "srun" else f"{python} {forked(site, 'alice')} 4"
    job = borrow(site, script=f"{started} {command}", options=("-n4",))
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
        paths = [cluster.home("alice") / f"{name}.out" for name in cases]
        until(
            lambda: all(path.exists() and text in path.read_text() for path in paths), 60,
            scene=lambda: cluster.out("squeue"),
        )  # fmt: skip

    wait("run 0 mode none")
    for job in jobs.values():
        cluster.run(["scontrol", "requeue", job])
    for job in jobs.values():
        start_again(cluster, job)
    wait("run 1 mode none")
    kept = {name: "run 0" in (cluster.home("alice") / f"{name}.out").read_text() for name in cases}
    assert kept == {name: case[3] for name, case in cases.items()}


def told_and_requeued(site: Site, jobs: Sequence[str], saved: Callable[[], object]) -> None:
    """The jobs get the checkpoint signal as slurmextd sends it, save, and are requeued."""
    for job in jobs:
        site.cluster.run(["scancel", "--signal=USR1", "--full", job])
    site.until(lambda: saved() or any(site.state(job) in {"COMPLETED", "FAILED"} for job in jobs))
    assert saved(), [site.output("alice", job) for job in jobs]
    for job in jobs:
        site.scontrol("requeue", job)
    for job in jobs:
        site.until(lambda job=job: site.job(job).restarts == 1)
        start_again(site.cluster, job)


def start_again(cluster: Devcluster, job: str) -> None:
    """Slurm lets a requeued job wait for two minutes; not this one, once its last run has left its nodes."""
    deadline, told_s = time.monotonic() + 60, 0.0
    while (state := records.job(cluster, job).state) != "RUNNING":
        assert time.monotonic() < deadline, state
        # Said while the last run is still leaving it counts for nothing, said again too soon it puts the start off.
        if state == "PENDING" and time.monotonic() - told_s > 4:
            # Not now: a slurmd starts no job in the second in which it was told to end it.
            cluster.run(["scontrol", "update", f"jobid={job}", "StartTime=now+1"], check=False)
            told_s = time.monotonic()
        time.sleep(0.2)


WITHOUT_SRUN = {
    "session": "setsid -w {python} {program}",
    "background": "{python} {program} & wait",
    "signal": "{python} {program}; echo over",
    "trap": "trap 'echo trapped' USR2; {python} {program} & wait; wait",
    "torchrun": "{python} -m torch.distributed.run --standalone --nproc-per-node=2 {program} --epochs=6 --sentences=160 "
    "--step-time=0.15",
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] if way != "session" else []) for way in WITHOUT_SRUN]
)
def test_started_by_the_batch_script_itself(site: Site, way: str) -> None:
    """Without srun, in a session of its own or in the background: it is told, saves, and goes on after its requeue."""
    home = site.cluster.home("alice")
    if way == "torchrun":
        python, program = programs.python_with("torch"), install(site, "alice")
    else:
        python, program = programs.python_with("numpy"), home / "ranks.py"
        program.write_text(programs.RANKS)
    (home / "finish").unlink(missing_ok=True)
    site.submit("alice", "--queue=research", "-N2", "--gres=gpu:8", "--no-preempt", script="sleep 600")
    ckpt = "USR2@8" if way in {"signal", "trap"} else "auto"
    job = site.submit("alice", "--queue=research", f"--ckpt={ckpt}", f"--ckpt-dir={home}/{way}", "-N2", "--gres=gpu:8",
                      script=WITHOUT_SRUN[way].format(python=python, program=program),
                      env=programs.environment(site) | {"FINISH": str(home / "finish")})  # fmt: skip
    line(site, job, "epoch 0" if way == "torchrun" else "from 0", 1)
    time.sleep(1)
    reclaim(site, job)
    (home / "finish").touch()
    line(site, job, "digest" if way == "torchrun" else "done", 1)
    site.until_ended(job)
    text = site.output("alice", job)
    assert site.state(job) == "COMPLETED", text
    assert site.job(job).restarts == 1
    (gone,) = site.store.preemptions(job_id=job)
    assert gone.confirmed_s is not None, text
    assert ("trapped" in text) is (way == "trap"), text
    assert "resumed at step" in text if way == "torchrun" else text.count("from 0") == 1, text


@pytest.mark.slow
def test_under_torchrun(site: Site) -> None:
    """`srun torchrun`: the signal reaches its workers, which have sessions of their own, and it survives it itself."""
    python, program = programs.python_with("torch"), install(site, "alice")
    folder = site.cluster.home("alice") / "torchrun"
    script = f"srun -n1 {python} -m torch.distributed.run --standalone --nproc-per-node=2 {program} --epochs=4 --sentences=160 --step-time=0.15"
    job = site.submit("alice", "--ckpt=auto", f"--ckpt-dir={folder}", script=script, env=programs.environment(site))
    line(site, job, "epoch 0", 1)
    told_and_requeued(site, [job], lambda: list(folder.glob("save-*")))
    site.until(lambda: site.state(job) in {"COMPLETED", "FAILED"}, 90)
    text = site.output("alice", job)
    assert site.state(job) == "COMPLETED" and "resumed at step" in text, text
    assert len(programs.results(text)) == 2


def test_tasks_of_an_array(site: Site) -> None:
    """Tasks that were given one directory save in a folder each, and go on from their own."""
    python, program = programs.python_with("numpy"), site.cluster.home("alice") / "train_numpy.py"
    program.write_text((programs.EXAMPLES / "train_numpy.py").read_text())
    folder = site.cluster.home("alice") / "array"
    script = f"{python} {program} --steps=240 --step-time=0.05 --seed=$SLURM_ARRAY_TASK_ID"
    array = site.submit("alice", "--ckpt=auto", "--array=1-2", f"--ckpt-dir={folder}", "--output=array-%a.out", script=script,
                        env=programs.environment(site))  # fmt: skip
    outputs = [site.cluster.home("alice") / f"array-{task}.out" for task in (1, 2)]
    site.until(lambda: all(path.exists() and "started" in path.read_text() for path in outputs))
    time.sleep(1)
    told_and_requeued(site, [f"{array}_{task}" for task in (1, 2)],
                      lambda: all(list((folder / f"task-{task}").glob("save-*")) for task in (1, 2)))  # fmt: skip
    site.until(lambda: all("final loss" in path.read_text() for path in outputs), 60)
    assert all("resumed at step" in path.read_text() for path in outputs)
    assert len({path.read_text().splitlines()[-1] for path in outputs}) == 2


def test_a_step_over_a_heterogeneous_job(site: Site) -> None:
    """Its components are one set of ranks."""
    python, home = programs.python_with("numpy"), site.cluster.home("alice")
    (home / "ranks.py").write_text(programs.RANKS)
    (home / "finish").unlink(missing_ok=True)
    (home / "het.sh").write_text(f"#!/bin/sh\nsrun --het-group=0,1 {python} {home}/ranks.py\n")
    argv = ["sbatch", "--parsable", "--ckpt=auto", f"--ckpt-dir={home}/het", "--requeue", "-n1", "--output=%j.out", ":", "-n2",
            "--ckpt=auto", f"--ckpt-dir={home}/het", str(home / "het.sh")]  # fmt: skip
    env = programs.environment(site) | {"FINISH": str(home / "finish")}
    job = site.cluster.run(argv, user="alice", env=env).stdout.strip()
    site.until(lambda: site.output("alice", job).count("from 0") == 3)
    assert all(f"rank {rank} of 3 from 0" in site.output("alice", job) for rank in range(3))
    site.cluster.run(["scancel", "--signal=USR1", "--full", job])
    site.until(lambda: site.output("alice", job).count("saved") == 3)
    assert len({each for each in site.output("alice", job).splitlines() if each.startswith("saved")}) == 1
    (home / "finish").touch()
    site.until(lambda: site.output("alice", job).count("done") == 3)


@pytest.mark.slow
def test_four_ranks_then_two_then_three(site: Site) -> None:
    """Cancelled and submitted again with other numbers of ranks: every sentence of an epoch is used, in all hardly one twice."""
    python, program = programs.python_with("torch"), install(site, "alice")
    home = site.cluster.home("alice")
    site.cluster.run(["mkdir", "-p", f"{home}/log"], user="alice")
    arguments = f"--epochs=2 --sentences=192 --batch=4 --step-time=0.15 --log={home}/log"
    for world in (4, 2, 3):
        job = site.submit("alice", "--ckpt=auto", f"--ckpt-dir={home}/resized", f"-n{world}",
                          script=f"srun {python} {program} {arguments}", env=programs.environment(site))  # fmt: skip
        if world != 3:
            site.until(lambda world=world: (home / f"log/{world}-0").exists(), 90)
            time.sleep(0.5)
            site.cluster.run(["scancel", job], user="alice")
        site.until_ended(job)
    text = site.output("alice", job)
    assert len(set(programs.results(text).values())) == 3 and "resumed at step" in text, text
    weights = {result.split()[1] for result in programs.results(text).values()}
    assert len(weights) == 1
    steps: dict[int, tuple[int, list[int]]] = {}
    for world in (4, 2, 3):  # what a later run did again counts once
        parts = [path.read_text().splitlines() for path in sorted((home / "log").glob(f"{world}-*"))]
        first = min(int(each.split()[0]) for each in parts[0])
        steps = {step: found for step, found in steps.items() if step < first}
        for each in (words for part in parts for words in part):
            step, epoch, *numbers = map(int, each.split())
            steps.setdefault(step, (epoch, []))[1].extend(numbers)
    for epoch in range(2):
        used = [number for its_epoch, numbers in steps.values() if its_epoch == epoch for number in numbers]
        assert set(used) == set(range(192)) and len(used) <= 194
