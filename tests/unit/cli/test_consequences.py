"""What `policy apply`, `policy diff` and `queue set` tell of running jobs before they change anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from slurmext.errors import SlurmUnavailable
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.snapshot import Snapshot

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Run


def world(now_s: float) -> Snapshot:
    """research/vision uses 24 GPUs: dan's jobs, the newest the cheapest; prod has one of alice."""

    def job(job_id: str, queue: str, node: str, since_s: int, user: str = "dan") -> Job:
        return Job(
            id=job_id, queue=queue, state=JobState.RUNNING, user=user, gpus_per_task=8, started_s=now_s - since_s,
            placement=(NodeGpus(node=node, gpus=8),),
        )  # fmt: skip

    jobs = [job(f"{i}", "research/vision", f"n{i}", 10 * i) for i in (1, 2, 3)]
    return Snapshot(
        now_s=now_s, nodes=tuple(Node(name=f"n{i}", gpus=8) for i in (1, 2, 3, 4)),
        jobs=(*jobs, job("9", "prod", "n4", 100, "alice")),
    )  # fmt: skip


def test_a_cut_names_who_must_leave_and_when(run: Run, seeded: SimpleNamespace) -> None:
    """The very jobs that the daemon would choose, and the time at which they leave."""
    result = run("queue", "set", "research", "max=16", "--dry-run", look=lambda: world(seeded.now))
    assert result.output.splitlines()[1:] == [
        "1 running job must leave unless others end before:",
        "  2027-01-15 08:10:00 (in 10 min)  job 1 of dan, 8 GPUs of research/vision: QUOTA_CUT",
    ]


def test_a_removed_queue_names_its_jobs(run: Run, seeded: SimpleNamespace, tmp_path: Path) -> None:
    """In `policy diff` and in `policy apply --dry-run` alike."""
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nsettings: {cut_delay_s: 60}\nqueues: {research: {children: {nlp: {}, vision: {}}}}\n")
    for command in (["diff"], ["apply", "--dry-run"]):
        said = run("policy", *command, str(file), look=lambda: world(seeded.now)).output
        assert "(in 1 min)  job 9 of alice, 8 GPUs of prod: QUEUE_REMOVED" in said
        assert "1 running job must leave" in said


def test_nobody_is_asked_while_nothing_gets_smaller(run: Run) -> None:
    """A change of something else costs no look at Slurm."""

    def fail() -> Snapshot:
        raise AssertionError

    assert run("queue", "set", "research", "max=33", "--dry-run", look=fail).exit_code == 0


def test_without_slurm_the_policy_can_be_changed_all_the_same(run: Run) -> None:
    """It says that it does not know which jobs."""

    def mute() -> Snapshot:
        raise SlurmUnavailable("squeue did not answer")

    result = run("queue", "set", "research", "max=20", "-i", look=mute)
    assert result.exit_code == 0
    assert "what is above its max leaves in 10 min. Which jobs that is, is not known:" in result.output
    assert "squeue did not answer" in result.output


def test_guarantees_beyond_the_cluster_are_told_before_they_are_promised(
    run: Run, seeded: SimpleNamespace, tmp_path: Path
) -> None:
    """In `policy check` and `apply` and in `queue set`, where they grow; not where the cluster cannot be asked."""
    said = "warning: the policy guarantees 33 GPUs, the cluster has 32: not every queue can get its guarantee"
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nqueues: {research: {guaranteed: 16}, prod: {guaranteed: 17}}\n")
    promises = (
        ["policy", "check", str(file)],
        ["policy", "apply", "--dry-run", str(file)],
        ["queue", "set", "prod", "guaranteed=17", "--dry-run"],
    )
    for command in promises:
        told = run(*command, look=lambda: world(seeded.now))
        assert (told.exit_code, said in told.stderr) == (0, True), command
        assert said not in run(*command).stderr
    fits = run("queue", "set", "prod", "guaranteed=15", "--dry-run", look=lambda: world(seeded.now))
    assert fits.stderr == ""
