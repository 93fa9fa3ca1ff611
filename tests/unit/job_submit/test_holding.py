"""Which jobs are annotated and held, and which pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.job_submit.site import QUEUES, Controller


def test_a_gpu_job_is_annotated_and_held(controller: Controller) -> None:
    """The default queue, priority 0, and slurmextd woken."""
    outcome = controller.submit()
    assert outcome.code == 0
    assert outcome.set == {"admin_comment": "slurmext/1 queue=research held=1", "priority": "0"}
    assert controller.woken


def test_every_option_reaches_the_annotation(controller: Controller) -> None:
    """Values are percent-encoded, a checkpointing batch job becomes requeueable."""
    outcome = controller.submit(
        options={
            "SLURMEXT_QUEUE": "prod/chat", "SLURMEXT_CKPT": "auto", "SLURMEXT_CKPT_DIR": "/s/a b=50%",
            "SLURMEXT_GPU_TYPES": "h100,a100", "SLURMEXT_GANG_MIN": "2", "SLURMEXT_NO_PREEMPT": "1",
            "_SLURM_SPANK_OPTION_slurmext_queue": "ignored",
        }, num_tasks=4,
    )  # fmt: skip
    assert outcome.comment == (
        "slurmext/1 queue=prod/chat ckpt=auto ckpt_dir=/s/a%20b%3D50%25 types=h100,a100 gang_min=2 preempt=no held=1"
    )
    assert outcome.set["requeue"] == "1"


def test_no_requeue_wins_over_ckpt(controller: Controller) -> None:
    """--no-requeue is the user's word."""
    assert "requeue" not in controller.submit(options={"SLURMEXT_CKPT": "auto"}, requeue=0).set


def test_an_interactive_job_is_not_made_requeueable(controller: Controller) -> None:
    """Salloc and srun jobs cannot be requeued."""
    assert "requeue" not in controller.submit(options={"SLURMEXT_CKPT": "auto"}, script=None).set


def test_a_stale_heartbeat_lets_jobs_pass_unheld(controller: Controller) -> None:
    """Fail open: annotated for a later adoption, but not held."""
    controller.beat(31)
    outcome = controller.submit()
    assert outcome.set == {"admin_comment": "slurmext/1 queue=research held=0"}
    assert not controller.woken


@pytest.mark.parametrize("content", [None, "", "garbage", "-5"])
def test_no_usable_heartbeat_is_a_stale_one(controller: Controller, content: str | None) -> None:
    """A missing or broken heartbeat never holds a job."""
    path = controller.folder / "heartbeat"
    path.unlink() if content is None else path.write_text(content)
    assert controller.submit().set == {"admin_comment": "slurmext/1 queue=research held=0"}


def test_without_a_queue_table_nothing_is_held_or_refused(controller: Controller) -> None:
    """No policy was ever applied: what the user gave is kept for later."""
    (controller.folder / "queues.tsv").unlink()
    assert controller.submit(options={"SLURMEXT_QUEUE": "new"}).set == {"admin_comment": "slurmext/1 queue=new held=0"}


def test_without_a_default_queue_jobs_that_name_none_are_untouched(controller: Controller) -> None:
    """They are left to Slurm."""
    controller.queues(QUEUES.replace("#default\tresearch", "#default\t"))
    assert controller.submit().set == {}


def test_a_job_without_gpus_is_untouched(controller: Controller) -> None:
    """Only GPU jobs are managed."""
    assert controller.submit(tres_per_job=None).set == {}


def test_models_of_a_job_without_gpus_are_noted(controller: Controller) -> None:
    """Slurm starts it as any other: it is neither held nor in a queue. A job with GPUs that is left to Slurm is too."""
    models = {"SLURMEXT_PRELOAD": "org/net@v1"}
    found = controller.submit(tres_per_job=None, options=models, admin_comment="slurmext/1 queue=prod/chat held=0")
    assert found.set == {"admin_comment": "slurmext/1 preload=org/net@v1 held=0"}
    noted = controller.submit(tres_per_job=None, options=models, admin_comment="ticket 42").comment
    assert noted == "slurmext/1 preload=org/net@v1 note=ticket%2042 held=0"
    controller.site = replace(controller.site, partitions=("main",))
    assert controller.submit(partition="cpu", options=models).set == {}


def test_a_job_without_gpus_that_names_a_queue_is_noted_and_not_held(controller: Controller) -> None:
    """It must be one that its user may use; nothing in it is waited for, and nobody would release the job."""
    found = controller.submit(tres_per_job=None, options={"SLURMEXT_QUEUE": "lab"})
    assert found.set == {"admin_comment": "slurmext/1 queue=lab held=0"}
    assert controller.submit(tres_per_job=None, options={"SLURMEXT_QUEUE": "none"}).code


def test_require_gpu_false_has_a_queue_for_every_job(controller: Controller) -> None:
    """managed.require_gpu: false. Only those with GPUs wait in it."""
    controller.site = replace(controller.site, require_gpu=False)
    assert controller.submit(tres_per_job=None).set == {"admin_comment": "slurmext/1 queue=research held=0"}


@pytest.mark.parametrize(("partition", "managed"), [(None, True), ("main", True), ("cpu", False), ("cpu,main", True)])
def test_only_managed_partitions(controller: Controller, partition: str | None, *, managed: bool) -> None:
    """The default partition counts where none is named."""
    controller.site = replace(controller.site, partitions=("main",))
    assert bool(controller.submit(partition=partition).set) is managed


def test_nobody_can_forge_an_annotation(controller: Controller) -> None:
    """An unmanaged job cannot look managed, a managed one gets our words."""
    forged = "slurmext/1 queue=prod/chat held=0"
    assert controller.submit(tres_per_job=None, admin_comment=forged).set == {"admin_comment": ""}
    assert controller.submit(admin_comment=forged).comment == "slurmext/1 queue=research held=1"


def test_another_admin_comment_is_kept(controller: Controller) -> None:
    """As the annotation's note."""
    assert "note=ticket%2042" in controller.submit(admin_comment="ticket 42").comment


def test_the_users_own_hold_is_remembered(controller: Controller) -> None:
    """Sbatch --hold: slurmextd must not release it."""
    assert "user_hold=1 held=1" in controller.submit(priority=0).comment


def test_a_placeholder_of_slurmextd_is_left_alone(controller: Controller) -> None:
    """It asks for a GPU and must start; nobody else may call a job so and pass."""
    assert controller.submit(uid=0, name="slurmext-slices-7").set == {}
    assert controller.submit(uid=1000, name="slurmext-slices-7").set["priority"] == "0"
