"""Jobs that are saved from outside run under what saves them."""

from __future__ import annotations

import pytest

from tests.unit.job_submit.site import Controller


def test_a_job_saved_from_outside_runs_under_what_saves_it(controller: Controller) -> None:
    """--ckpt=transparent: Slurm runs the keeper, which finds the job's own script behind a line of its own."""
    outcome = controller.submit(options={"SLURMEXT_CKPT": "transparent"}, script="#!/bin/bash\ntrain 'a b'\n")
    assert outcome.code == 0
    head, _, own = outcome.set["script"].partition("#slurmext: the job's own script\\n")
    assert 'exec \'/opt/slurmext/run it\' "$0" "$@"' in head
    assert own.startswith("#!/bin/bash")
    assert outcome.set["requeue"] == "1"


@pytest.mark.parametrize(
    ("job", "why"), [({"script": None}, "only a batch job"), ({"min_nodes": 2}, "only what runs on one node")]
)
def test_what_cannot_be_saved_from_outside_is_refused(controller: Controller, job: dict[str, object], why: str) -> None:
    """An interactive job and one of several nodes are told at submit, with what to use instead."""
    outcome = controller.submit(options={"SLURMEXT_CKPT": "transparent,chain"}, **job)
    assert outcome.code != 0
    assert why in outcome.user[0]
    assert "--ckpt=auto" in outcome.user[0]
