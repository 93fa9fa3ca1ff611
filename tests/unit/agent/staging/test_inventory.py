"""What an agent tells of the models it has."""

from __future__ import annotations

import json

from slurmext.adapters.tcp.wire import MAX_LINE_BYTES
from slurmext.agent.staging.inventory import briefs
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import Progress


def test_many_models_are_told_as_far_as_a_line_goes():
    """A line that is too long would not be told at all, and nobody knew what the node has."""
    here = [
        Progress(
            key=ModelKey(f"{'o' * 90}/{'m' * 90}{number}", "r" * 64), tier=TierKind.MEMORY, state=StageState.COMPLETE,
            ready_bytes=1 << 40, size=1 << 40, rate_bps=0.0, fingerprint="ab" * 32,
            pins=tuple(f"job-{1000 + job}" for job in range(40)),
        )
        for number in range(400)
    ]  # fmt: skip
    told = briefs(here)
    assert 100 < len(told) < 400
    assert len(json.dumps(told)) < MAX_LINE_BYTES * 0.8
    assert [one["model"] for one in told] == [one.key.name for one in here[: len(told)]]
    assert len(briefs(here[:50])) == 50
