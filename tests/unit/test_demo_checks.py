"""The demo's judge says no when something is not as promised."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from slurmext.cli.demo import verdicts
from slurmext.demo.checks import Check, Evidence, checks
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


def test_the_cheapest_are_told_with_what_the_others_would_have_lost() -> None:
    """Else nobody sees that there was a choice."""
    research = {**GOOD.research, "4": replace(_record("4", 0, ("n1",)), start_s=7)}
    seen = replace(GOOD, research=research, outputs=OTHER | {"4": OTHER["1"]}, before={**GOOD.before, "4": ("n1",)})
    [cheapest] = [check for check in checks(seen) if "cheapest" in check.what]
    assert cheapest.good and cheapest.found.endswith("; the others would have lost 3 to 8 s of work")


def test_what_must_be_true_stands_on_a_line_of_its_own() -> None:
    """On a terminal of 80 columns: neither broken nor beside half of what was found."""
    screen = Console(width=80, soft_wrap=True, file=io.StringIO())
    screen.print(verdicts([*checks(GOOD), Check(what="all is well", good=False, found="x" * 70)]))
    lines = [line.rstrip() for line in screen.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    for check in checks(GOOD):
        at = lines.index(f"ok  {check.what}")
        assert lines[at + 1].startswith(f"    {check.found[:40]}")
    assert lines[-2:] == ["NO  all is well", "    " + "x" * 70]


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
