"""slurmextd's desk of models when the registry changes, or is gone, while models are on their way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.errors import StoreUnavailable
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.plan.fabric import STORAGE

from .test_desk import ALICE, NODES, Stage, progress


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_without_the_registry_what_is_on_its_way_goes_on(stage: Stage) -> None:
    """A source that dies is replaced; what nodes have is written down once the registry is back."""
    entry = stage.model()
    stage.desk.wanted(entry.key, NODES, TierKind.MEMORY, "alice")
    [reader] = [node for node in NODES if STORAGE in stage.agents.sources(node)]
    stage.store.down = True
    for _ in range(6):
        with pytest.raises(StoreUnavailable):
            stage.says(reader, progress(entry, 0, lost={STORAGE: "permission denied"}))
    [second] = [node for node in NODES if node != reader and STORAGE in stage.agents.sources(node)]
    [*left] = sorted({*NODES} - {reader, second})
    with pytest.raises(StoreUnavailable):
        stage.says(second, progress(entry, 1))
    relay = next(node for node in left if stage.agents.sources(node) == [second])
    del stage.agents.here[relay]
    stage.desk.tick()
    [last] = {*left} - {relay}
    assert stage.agents.sources(last) == [second]
    with pytest.raises(StoreUnavailable):
        stage.says(last, progress(entry, 1))
    stage.store.down = False
    stage.says(last, progress(entry, 1))
    assert last in {each.node for each in stage.store.models.replicas() if each.complete}


def test_files_that_were_moved_are_read_where_they_are_at_once(stage: Stage) -> None:
    """Imported again from there after nodes failed to read them: nobody waits until failures are forgotten."""
    entry = stage.model()
    stage.desk.wanted(entry.key, NODES, TierKind.MEMORY, "alice")
    for _ in range(2):
        reader = next(node for node in NODES if STORAGE in stage.agents.sources(node))
        for _ in range(6):
            stage.says(reader, progress(entry, 0, lost={STORAGE: "no such file"}))
    stage.agents.staged.clear()
    stage.desk.asked("n1", 7, ALICE, ["org/net"])
    assert stage.agents.staged == {}, "it failed a moment ago"
    stage.store.models.add(replace(entry, storage="/archive/net"), b"")
    stage.desk.changed()
    stage.desk.asked("n1", 7, ALICE, ["org/net"])
    [source] = stage.agents.staged["n1"].sources
    assert (source.peer.node, source.peer.address) == (STORAGE, "/archive/net")
    [told] = stage.agents.preloads["n1", 7]
    assert (told.storage, told.why) == ("/archive/net", "")


def test_a_transfer_that_runs_takes_the_new_place_for_whoever_comes_to_it(stage: Stage) -> None:
    """Those that have begun keep the files they have open."""
    entry = stage.model()
    stage.desk.wanted(entry.key, ["n1"], TierKind.MEMORY, "alice")
    stage.says("n1", progress(entry, 0.2))
    stage.store.models.add(replace(entry, storage="/archive/net"), b"")
    stage.desk.wanted(entry.key, ["n2"], TierKind.MEMORY, "alice")
    assert str(stage.agents.staged["n2"].storage) == "/archive/net"


def test_why_nothing_more_comes_is_written_down_and_asking_again_tries_again(stage: Stage) -> None:
    """Storage that is not what was imported: its reader is left with a part, and whoever looks hears why."""
    entry = stage.model()
    stage.desk.wanted(entry.key, ["n1"], TierKind.MEMORY, "alice")
    stage.says("n1", progress(entry, 0.3, rejected=(STORAGE,), lost={STORAGE: "chunk 3 has another checksum"}))
    assert ("n1", "cancel", str(entry.key)) in stage.agents.acts
    stage.says("n1", progress(entry, 0.3, state=StageState.WAITING))
    [copy] = stage.store.models.replicas(entry.key)
    assert copy.why == "/shared/org/net/v1: chunk 3 has another checksum"
    stage.agents.staged.clear()
    stage.desk.wanted(entry.key, ["n1"], TierKind.MEMORY, "alice")
    assert stage.agents.sources("n1") == [STORAGE]
    stage.says("n1", progress(entry, 1))
    [copy] = stage.store.models.replicas(entry.key)
    assert copy.complete and copy.why == ""
