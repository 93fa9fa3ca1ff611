"""Who may read a model that nodes hold: they are told, whoever was away when that changed."""

from __future__ import annotations

import pytest

from slurmext.model.cluster import ClusterView
from slurmext.model.staged_model import ModelEntry
from slurmext.service.staging.desk import StageDesk
from slurmext.staging.access import Access

from .test_desk import ALICE, NOTHING, Stage, progress

PUBLIC, ALICES = Access(), Access(uid=ALICE)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def entry(stage: Stage) -> ModelEntry:
    """A model of Alice's that everyone may read, and that two nodes hold."""
    entry = stage.model(public=True)
    stage.says("n1", progress(entry, 1))
    stage.says("n2", progress(entry, 1))
    return entry


def told(stage: Stage) -> dict[str, Access]:
    """What a cycle tells nodes."""
    stage.agents.orders.clear()
    stage.clock.s += 10
    stage.desk.run(NOTHING, ClusterView(read_s=stage.clock.s, jobs=(), nodes=()))
    return {node: order.access for node, order in stage.agents.orders}


def test_nodes_that_hold_it_are_told_once_and_when_it_changes(stage: Stage, entry: ModelEntry) -> None:
    """One that does not have all of it yet is told by those who have it brought there."""
    stage.says("n3", progress(entry, 0.5))
    assert told(stage) == {"n1": PUBLIC, "n2": PUBLIC}
    assert told(stage) == {}
    stage.store.models.share(entry.key, gid=None, public=False)
    assert told(stage) == {"n1": ALICES, "n2": ALICES}
    assert told(stage) == {}


def test_a_node_that_was_away_hears_of_it_when_it_is_back(stage: Stage, entry: ModelEntry) -> None:
    """What became private meanwhile is not left to everyone there."""
    told(stage)
    del stage.agents.here["n1"]
    stage.desk.tick()
    stage.store.models.share(entry.key, gid=None, public=False)
    assert told(stage) == {"n2": ALICES}
    stage.agents.here["n1"] = "10.0.0.1"
    stage.desk.greeted("n1", {"port": 6832})
    stage.says("n1", progress(entry, 1))
    assert told(stage) == {"n1": ALICES}


def test_an_agent_that_starts_anew_is_told_anew(stage: Stage, entry: ModelEntry) -> None:
    """The one before may have died before it did as it was told."""
    told(stage)
    stage.desk.greeted("n1", {"port": 6832})
    stage.says("n1", progress(entry, 1))
    assert told(stage) == {"n1": PUBLIC}


def test_one_that_could_not_be_told_is_told_again(stage: Stage, entry: ModelEntry) -> None:
    """Its agent went away in that moment."""
    del stage.agents.here["n1"]
    assert told(stage) == {"n1": PUBLIC, "n2": PUBLIC}
    stage.agents.here["n1"] = "10.0.0.1"
    assert told(stage) == {"n1": PUBLIC}


def test_a_slurmextd_that_begins_tells_what_the_one_before_may_not_have_told(stage: Stage, entry: ModelEntry) -> None:
    """It was killed between the change and its next cycle."""
    told(stage)
    stage.store.models.share(entry.key, gid=None, public=False)
    stage.desk = StageDesk(store=stage.store, agents=stage.agents, clock=stage.clock)
    stage.says("n1", progress(entry, 1))
    assert told(stage) == {"n1": ALICES}
