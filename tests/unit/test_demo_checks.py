"""The demo's judge says no when something is not as promised."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.demo.checks import Evidence, checks
from slurmext.demo.records import Output, SlurmRecord


def _record(job_id: str, restarts: int, nodes: tuple[str, ...], state: str = "COMPLETED") -> SlurmRecord:
    return SlurmRecord(
        job_id=job_id, state=state, restarts=restarts, nodes=nodes, submit_s=1, start_s=2, exit_code="0:0"
    )


GOOD = Evidence(
    research={"1": _record("1", 0, ("n1",)), "2": _record("2", 1, ("n2",))},
    outputs={
        "1": Output(saved=(), resumed=(), last_saved=(), loss="0.5"),
        "2": Output(saved=(3, 9, 30), resumed=(9,), last_saved=(9,), loss="0.5"),
    },
    gang=_record("3", 0, ("n2",)),
    before={"1": ("n1",), "2": ("n2",)},
    savers=frozenset({"2"}),
    gpus_per_job=4,
    gang_gpus=4,
    submitted_s=10,
    running_s=12,
    deadline_s=25,
    reference_loss="0.5",
)
OTHER = dict(GOOD.outputs)


def test_all_good() -> None:
    """Evidence of a run without fault passes every check."""
    assert all(check.good for check in checks(GOOD))


@pytest.mark.parametrize(
    ("bad", "which"),
    [
        (replace(GOOD, running_s=60), "deadline"),
        (replace(GOOD, gang=_record("3", 0, ("n1",))), "no more victims"),
        (replace(GOOD, gang_gpus=2), "no more victims"),
        (replace(GOOD, savers=frozenset({"1"})), "cheapest"),
        (replace(GOOD, research=dict(GOOD.research) | {"2": _record("2", 2, ("n2",))}), "requeued once"),
        (
            replace(GOOD, outputs=OTHER | {"2": Output(saved=(3, 9), resumed=(3,), last_saved=(9,), loss="0.5")}),
            "resumed",
        ),
        (replace(GOOD, outputs=OTHER | {"2": Output(saved=(9,), resumed=(), last_saved=(), loss="0.5")}), "resumed"),
        (replace(GOOD, outputs=OTHER | {"1": Output(saved=(), resumed=(), last_saved=(), loss="0.6")}), "loss"),
        (replace(GOOD, gang=_record("3", 0, ("n2",), "FAILED")), "COMPLETED"),
    ],
)
def test_each_broken_promise_is_seen(bad: Evidence, which: str) -> None:
    """Each check fails when what it is about is not so."""
    failed = [check.what for check in checks(bad) if not check.good]
    assert any(which in what for what in failed), failed
