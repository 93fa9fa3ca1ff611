"""The examples of each framework as their first lines say: reclaimed in the midst of it, they end as if they had not been."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration import programs

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CASES = {
    "numpy": ("train_numpy.py", "--steps 150 --step-time 0.05", "final loss"),
    "jax": ("train_jax.py", "--steps 150 --step-time 0.05", "final loss"),
    "torch": ("train_torch.py", "--epochs 2 --sentences 256 --step-time 0.1", "rank 0 of 1"),
    "lightning": ("train_lightning.py", "--epochs 6 --step-time 0.05", "final step 96"),
    "transformers": ("train_transformers.py", "--steps 100 --load-time 0.01", "final"),
}


def crowd_out(site: Site, job: str) -> None:
    """Prod takes its GPUs back."""
    owner = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8", script="sleep 0.5")
    site.until(lambda: site.job(job).restarts == 1)
    site.until_ended(owner)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("launcher", ["", "srun "], ids=["script", "srun"])
@pytest.mark.parametrize("module", CASES)
def test_an_example_is_reclaimed_and_goes_on(site: Site, module: str, launcher: str) -> None:
    """It confirms its checkpoint, is requeued, resumes and completes, with one process on one of its nodes."""
    name, options, last = CASES[module]
    python, program = programs.python_with(module), site.cluster.home("alice") / name
    program.write_text((programs.EXAMPLES / name).read_text())
    env = {**programs.environment(site), "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    site.submit("alice", "--queue=research", "-N2", "--gres=gpu:8", "--no-preempt", script="sleep 600")
    step = f"{launcher}-n1 -N1 " if launcher else ""
    job = site.submit("alice", "--queue=research", "--ckpt=auto", "-N2", "--gres=gpu:8",
                      script=f"{step}{python} {program} {options}", env=env)  # fmt: skip
    site.until(lambda: "started" in site.output("alice", job), 90)
    time.sleep(2)
    crowd_out(site, job)
    site.until(lambda: last in site.output("alice", job) or site.state(job) in {"FAILED", "COMPLETED"}, 120)
    site.until_ended(job)
    text = site.output("alice", job)
    assert site.state(job) == "COMPLETED", text
    assert "resumed " in text and last in text, text
    (gone,) = site.store.preemptions(job_id=job)
    assert gone.confirmed_s is not None, text
    noise = [line for line in text.splitlines() if line.startswith("slurmext.checkpoint:")]
    assert noise == [], text


@pytest.mark.timeout(300)
def test_the_submitit_example_is_reclaimed_and_goes_on(site: Site) -> None:
    """Submitit pickles the callable on the signal, and the requeued job counts on."""
    python, home = programs.python_with("submitit"), site.cluster.home("alice")
    program = home / "submit_checkpointable.py"
    text = (programs.EXAMPLES / program.name).read_text()
    asked = '{"ckpt": "USR2@60", "queue": "research", "gres": "gpu:8", "nodes": 2}'
    program.write_text(text.replace('{"ckpt": "USR2@60"}', asked))
    site.submit("alice", "--queue=research", "-N2", "--gres=gpu:8", "--no-preempt", script="sleep 600")
    argv = [python, str(program), f"--folder={home}/logs", "--steps=120"]
    done: list[subprocess.CompletedProcess[str]] = []

    def submit() -> None:
        env = programs.environment(site)
        done.append(site.cluster.run(argv, user="alice", env=env, timeout_s=200, check=False))

    waits = threading.Thread(target=submit)
    waits.start()
    job = site.until(lambda: next(iter(site.cluster.out("squeue", "-h", "-n", "submitit", "-o%i").split()), ""))
    said = home / "logs" / f"{job}_0_log.out"
    site.until(lambda: said.exists() and "Loading pickle" in said.read_text(), 90)
    time.sleep(4)
    crowd_out(site, job)
    site.until_ended(job)
    waits.join()
    assert site.state(job) == "COMPLETED"
    assert "counted to 120" in done[0].stdout, done[0].stdout + done[0].stderr
    assert any("requeue" in path.read_text().lower() for path in (home / "logs").glob("*.out"))
