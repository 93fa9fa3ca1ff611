"""What ordinary users do with a managed queue on a real Slurm: hold, release, depend, run interactively, be refused."""

from __future__ import annotations

import subprocess
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.integration.gates import Gate

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster


def interactive(site: Site, user: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return site.cluster.run(argv, user=user, timeout_s=60)


def test_a_job_its_user_held_waits_and_is_admitted_once_released(site: Site) -> None:
    """Sbatch --hold stays held; scontrol release by its owner brings it into the queue's admission, not past it."""
    full = site.fill()
    held = site.submit("bob", "--queue=research", "--gres=gpu:8", "--hold")
    site.until_known(held)
    assert site.field(held, "Reason") == "JobHeldUser"
    assert site.scontrol("release", held, user="bob").returncode == 0
    # taken over: under the daemon's hold now, for there is no room
    site.until(lambda: site.field(held, "Reason") == "JobHeldAdmin")
    site.until(lambda: site.reason(held) not in {"", "NOT_ELIGIBLE"})
    assert site.state(held) == "PENDING"
    site.cluster.run(["scancel", full[0]])
    site.until_running(held)


def test_a_held_job_starts_at_once_when_its_user_releases_it_into_a_free_queue(site: Site) -> None:
    """The time job_submit gives the daemon to take the job over is taken back."""
    held = site.submit("bob", "--queue=prod", "--gres=gpu:1", "--hold")
    site.until_known(held)
    site.scontrol("release", held, user="bob")
    site.until_running(held)
    release, hold = site.store.actions(job_id=held)
    assert (release.kind.value, hold.kind.value) == ("release", "hold")
    eligible_s = datetime.fromisoformat(site.field(held, "EligibleTime")).timestamp()
    assert eligible_s <= hold.changed_s + 2, "when it had been taken over, not when that time was over"


def test_a_begin_time_survives_the_release_of_a_hold(site: Site) -> None:
    """Sbatch --hold --begin: the release does not make the job eligible early."""
    held = site.submit("bob", "--queue=prod", "--gres=gpu:1", "--hold", "--begin=now+1hour")
    begin = site.field(held, "StartTime")
    site.until_known(held)
    site.scontrol("release", held, user="bob")
    site.until(lambda: site.field(held, "Reason") == "JobHeldAdmin")
    assert site.field(held, "EligibleTime") == begin
    assert site.reason(held) == "NOT_ELIGIBLE"


def test_a_user_cannot_release_past_the_quota(site: Site) -> None:
    """The job stays held, Slurm says no, and the user who asks slurmext is told what it waits for."""
    site.fill()
    waiting = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until(lambda: site.reason(waiting))
    for change in (["release", waiting], ["update", f"JobId={waiting}", "Priority=100"]):
        done = site.scontrol(*change, user="alice")
        assert done.returncode != 0
        assert "denied" in done.stderr
    assert site.field(waiting, "Priority") == "0"
    assert waiting in site.slurmext("job", "explain", waiting)


def test_srun_and_salloc_are_admitted_and_run(site: Site) -> None:
    """Interactive jobs wait for admission and then run as ever, with the GPUs they asked for."""
    ran = interactive(
        site, "alice", "srun", "--queue=research", "--gres=gpu:2", "bash", "-c", "echo $SLURM_GPUS_ON_NODE"
    )
    assert ran.stdout.split() == ["2"], ran.stderr
    ran = interactive(
        site, "bob", "salloc", "--queue=prod", "-N2", "--gres=gpu:8", "srun", "printenv", "SLURMD_NODENAME"
    )
    assert len(set(ran.stdout.split())) == 2, ran.stderr


def test_srun_waits_for_room_and_then_runs(site: Site) -> None:
    """An interactive job of a full queue is not refused: it starts when GPUs are free."""
    full = site.fill()
    argv = ["srun", "--queue=research", "--gres=gpu:8", "echo", "it", "ran"]
    srun = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=site.cluster.environment("bob"),
        user="bob", cwd=site.cluster.home("bob"), executable=site.cluster.bin / "srun",
    )  # fmt: skip
    try:
        waiting = site.until(lambda: [job for job in site.states() if job not in full])[0]
        site.until(lambda: site.reason(waiting))
        site.cluster.run(["scancel", full[1]])
        out, problems = srun.communicate(timeout=60)
    finally:
        srun.kill()
    assert (out.strip(), srun.returncode) == ("it ran", 0), problems


def test_a_dependent_job_is_admitted_when_it_is_eligible(site: Site) -> None:
    """Afterok: not released before, and within seconds after; one whose condition fails is never started."""
    gate = Gate(site.cluster)
    first = site.submit("alice", "--gres=gpu:1", script=gate.wait)
    failing = site.submit("alice", "--gres=gpu:1", script=f"{gate.wait}; false")
    after = site.submit("alice", "--gres=gpu:1", f"--dependency=afterok:{first}")
    never = site.submit("alice", "--gres=gpu:1", f"--dependency=afterok:{failing}")
    site.until_running(first)
    site.until(lambda: site.reason(after) == "NOT_ELIGIBLE")
    assert site.field(after, "Priority") == "0"
    gate.open()
    site.until_ended(first)
    site.until(lambda: site.state(after) == "RUNNING", 20)
    assert site.field(after, "StartTime") >= site.field(first, "EndTime")
    site.until_ended(failing)
    site.until(lambda: site.field(never, "Reason") in {"DependencyNeverSatisfied", "JobHeldUser", "JobHeldAdmin"})
    assert (site.state(never), site.store.actions(job_id=never)) == ("PENDING", [])


def test_a_requeue_by_the_administrator_is_adopted(site: Site) -> None:
    """The job is held again, planned again, and runs again; Slurm counts one restart."""
    job = site.submit("alice", "--queue=research", "--gres=gpu:8", "--ckpt", script="echo run; sleep 300")
    site.until(lambda: "run" in site.output("alice", job))
    site.until(lambda: not site.store.open_actions())
    assert site.scontrol("requeue", job).returncode == 0
    site.until(lambda: "hold" in [action.kind.value for action in site.store.actions(job_id=job)])
    site.until_running(job)
    site.until(lambda: site.output("alice", job).count("run\n") == 2)
    assert site.job(job).restarts == 1
    kinds = [action.kind.value for action in reversed(site.store.actions(job_id=job))]
    assert kinds == ["release", "hold", "release"]


def test_who_may_use_which_queue_is_told_at_submit(site: Site) -> None:
    """Closed to bob, unknown, too large: each refused in one line; held where the queue's policy says hold."""
    denied = site.refused("bob", "--queue=closed", "--gres=gpu:1")
    assert "user bob may not use it" in denied
    assert "you may use research, prod" in denied
    unknown = site.refused("bob", "--queue=reserch", "--gres=gpu:1")
    assert "no such queue; did you mean research?" in unknown
    large = site.refused("bob", "--queue=prod", "-N5", "--gres=gpu:8")
    assert "asks for 40 GPUs and the queue may never have more than 32" in large
    held = site.submit("alice", "--queue=closed", "--gres=gpu:8")
    site.until(lambda: site.reason(held))
    assert site.state(held) == "PENDING"
    assert "4" in site.slurmext("job", "explain", held)


def test_a_total_that_no_node_holds_is_spread(site: Site) -> None:
    """`sbatch --gpus=11` on nodes of 8 starts on two of them, as without slurmext."""
    job = site.submit("alice", "--queue=research", "--gpus=11")
    site.until_known(job)
    site.until(lambda: site.store.jobs(job_ids=[job])[0].state == "running")
    row = site.store.jobs(job_ids=[job])[0]
    assert (row.gpus, len(row.nodes.split(","))) == (11, 2)
