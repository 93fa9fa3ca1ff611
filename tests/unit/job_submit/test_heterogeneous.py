"""Heterogeneous jobs are not for queues."""

from __future__ import annotations

from tests.unit.job_submit.site import NO_VAL, QUEUES, Controller


def test_heterogeneous_jobs_are_left_to_slurm(controller: Controller) -> None:
    """No component is held or marked as ours: nobody would release it. It waits behind what queues have released."""
    outcome = controller.submit(het_job_offset=1, admin_comment="slurmext/1 queue=prod held=0")
    assert outcome.code == 0
    assert outcome.set == {"admin_comment": "", "priority": "1"}
    assert not controller.woken
    assert controller.submit(het_job_offset=0, priority=0).set == {}
    assert controller.submit(het_job_offset=NO_VAL).comment.endswith("held=1")


def test_a_component_that_can_save_says_so_to_slurmextd_and_is_not_held(controller: Controller) -> None:
    """With GPUs or without, with slurmextd or without; every component may be requeued, not only that of the script."""
    asked = {"SLURMEXT_CKPT": "auto,chain", "SLURMEXT_CKPT_DIR": "/scratch/run"}
    first = controller.submit(het_job_offset=0, options=asked, admin_comment="of the site's own script")
    assert first.code == 0
    assert first.comment == "slurmext/1 ckpt=auto,chain note=of%20the%20site%27s%20own%20script held=0"
    assert (first.set["requeue"], first.set["priority"]) == ("1", "1")
    assert not controller.woken
    second = controller.submit(
        het_job_offset=1, options=asked, script=None, tres_per_job=None, admin_comment="slurmext/1 queue=prod"
    )
    assert second.set == {"admin_comment": "slurmext/1 ckpt=auto,chain held=0", "requeue": "1"}
    assert "requeue" not in controller.submit(het_job_offset=1, options=asked, script=None, requeue=0).set
    controller.beat(3600)
    assert "priority" not in controller.submit(het_job_offset=0, options=asked).set
    assert controller.submit(het_job_offset=NO_VAL, options=asked, script=None, tres_per_job=None).set == {}


def test_a_heterogeneous_job_cannot_name_a_queue(controller: Controller) -> None:
    """One line that says what to do instead."""
    outcome = controller.submit(het_job_offset=0, options={"SLURMEXT_QUEUE": "research"})
    assert outcome.code != 0
    assert "--queue=research: queues do not take heterogeneous jobs; leave it out" in outcome.user[0]


def test_a_site_may_refuse_heterogeneous_jobs_with_gpus(controller: Controller) -> None:
    """Those would be outside all queues; ones without GPUs are nobody's business."""
    controller.queues(QUEUES + "#het\trefuse\n")
    outcome = controller.submit(het_job_offset=0)
    assert outcome.code != 0
    assert "not taken here" in outcome.user[0]
    assert controller.submit(het_job_offset=0, tres_per_job=None).code == 0
