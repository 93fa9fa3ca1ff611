"""Whatever goes wrong in the script costs no job."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.unit.job_submit.site import NO_VAL16, Controller


@pytest.mark.parametrize("field_", ["tres_per_job", "spank_job_env", "admin_comment", "user_name", "num_tasks"])
def test_a_field_that_cannot_be_read_leaves_the_job_untouched(controller: Controller, field_: str) -> None:
    """Our mistakes never cost a job."""
    outcome = controller.submit(broken={"read": field_})
    assert outcome.code == 0
    assert outcome.set == {}
    assert "the job passes untouched" in outcome.error[0]


@pytest.mark.parametrize("field_", ["admin_comment", "requeue", "priority"])
def test_a_field_that_cannot_be_written_is_rolled_back(controller: Controller, field_: str) -> None:
    """Half a decision is none: what was set before is set back."""
    outcome = controller.submit(options={"SLURMEXT_CKPT": "auto"}, broken={"write": field_})
    assert outcome.code == 0
    assert outcome.set.get("admin_comment", "") == ""
    assert outcome.set.get("requeue", str(NO_VAL16)) == str(NO_VAL16)
    assert "priority" not in outcome.set


@pytest.mark.parametrize("table", ["\t\t\t\n", "\x00\xff\n", "#default\n", "a\n", "#default\ta\na\t1\tx\ty\n"])
def test_a_broken_queue_table_costs_no_job(controller: Controller, table: str) -> None:
    """Whatever lies in queues.tsv, nothing is raised to slurmctld."""
    controller.queues(table)
    assert controller.submit().code in {0, -1}


def test_missing_wake_file_is_no_error(controller: Controller) -> None:
    """The daemon's timer finds the job anyway."""
    (controller.folder / "submit-wake").unlink()
    outcome = controller.submit()
    assert (outcome.code, outcome.error) == (0, [])


def test_the_sites_script_is_called_first(controller: Controller) -> None:
    """Its changes are seen, its refusal stands, its later edits are taken up."""
    former = controller.folder / "job_submit.site.lua"
    controller.site = replace(controller.site, former=str(former))
    former.write_text(
        "function slurm_job_submit(job, parts, uid) job.tres_per_job = nil return slurm.SUCCESS end\n"
        "function slurm_job_modify(job, rec, parts, uid) return 7 end\nreturn slurm.SUCCESS\n"
    )
    assert "priority" not in controller.submit().set
    assert controller.modify({"admin_comment": None}, uid=0).code == 7
    former.write_text("function slurm_job_submit() slurm.log_user('site says no') return slurm.ERROR end\n")
    outcome = controller.submit()
    assert (outcome.code, outcome.user, outcome.set) == (-1, ["site says no"], {})


def test_site_values_are_quoted(controller: Controller) -> None:
    """A path or a partition cannot break out of its literal."""
    controller.site = replace(controller.site, partitions=('a"] = os.exit(3), ["b',))
    assert controller.submit().code == 0
    assert json.dumps("x") == '"x"'
