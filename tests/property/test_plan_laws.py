"""The laws of the contract hold for any cluster."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.invariants import violations
from slurmext.policy.planner import plan
from slurmext.testing.world import step

sys.path.insert(0, str(Path(__file__).parent))
from worlds import snapshots

MANY = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
"""The same worlds in every run: a failure in somebody's change is that change's."""

ROUNDS = 40


def busy(made: Plan) -> bool:
    return bool(made.release or made.evict or made.move)


@MANY
@given(snapshots())
def test_every_plan_keeps_every_law(snapshot: Snapshot) -> None:
    """No law is broken by a plan for any snapshot."""
    assert violations(snapshot, plan(snapshot)) == []


@MANY
@given(snapshots(plain=True))
def test_every_plan_keeps_every_law_with_quotas_alone(snapshot: Snapshot) -> None:
    """The same with nothing but guarantees and maxima, where evictions are frequent."""
    assert violations(snapshot, plan(snapshot)) == []


@MANY
@given(snapshots(), st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(snapshot: Snapshot, chance: random.Random) -> None:
    """Nodes, queues and jobs in any order give the same plan."""

    def shuffled(items: tuple) -> tuple:
        return tuple(chance.sample(items, len(items)))

    mixed = replace(
        snapshot, nodes=shuffled(snapshot.nodes), queues=shuffled(snapshot.queues), jobs=shuffled(snapshot.jobs)
    )
    assert plan(mixed) == plan(snapshot)


@pytest.mark.parametrize("requeue_delay", [False, True])
@pytest.mark.parametrize("plain", [False, True])
@MANY
@given(data=st.data())
def test_evictions_start_their_beneficiaries(data: st.DataObject, plain: bool, requeue_delay: bool) -> None:
    """When the victims are gone every beneficiary starts, before anybody else could take its GPUs."""
    snapshot = data.draw(snapshots(plain=plain))
    made = plan(snapshot)
    keep_fences = snapshot.settings.fences_stand
    after = plan(step(snapshot, made, after_s=0, requeue_delay=requeue_delay, keep_fences=keep_fences))
    waiting = {leaver.beneficiary for leaver in (*made.evict, *made.move)} - {""}
    assert waiting <= {release.job for release in after.release}


@pytest.mark.parametrize("plain", [False, True])
@MANY
@given(data=st.data(), chance=st.randoms(use_true_random=False))
def test_plans_come_to_rest(data: st.DataObject, chance: random.Random, plain: bool) -> None:
    """However victims trickle out and come back, plans over a world that changes by them alone become empty."""
    snapshot = data.draw(snapshots(plain=plain))
    kept = snapshot.settings.fences_stand
    for number in range(ROUNDS):
        made = plan(snapshot)
        assert violations(snapshot, made) == []
        if not busy(made):
            break
        late = {evict.job for evict in made.evict if chance.random() < 0.4} if number < ROUNDS // 2 else set()
        snapshot = step(snapshot, made, leaves=lambda job_id, late=late: job_id not in late, keep_fences=kept)
    assert not busy(plan(snapshot))
    assert not busy(plan(replace(snapshot, now_s=snapshot.now_s + 1)))
