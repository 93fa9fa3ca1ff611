"""What every store promises about models that can be staged; the in-memory fake included."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from slurmext.model.staged_model import ModelEntry, ModelReplica, ModelUsage
from slurmext.staging.errors import NameTaken, UnknownModel
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey

BASE = ModelEntry(
    key=ModelKey("org/base", "v1"), owner="ann", uid=1001, size=5 << 40, files=3, chunks=9, fingerprint="ab" * 32,
    storage="/share/base (one)", created_s=1000.5, shared_bytes=7, shared_with="org/older@v0",
)  # fmt: skip
COPY = ModelReplica(
    node="n1", tier=TierKind.MEMORY, key=BASE.key, fingerprint=BASE.fingerprint, state=StageState.COMPLETE,
    ready_bytes=5 << 40, size=5 << 40, pins=("admin", "job-12"), at_s=2000.25,
)  # fmt: skip


def revision(name: str, **more: Any) -> ModelEntry:
    """Another revision of the same model."""
    return replace(BASE, key=ModelKey("org/base", name), fingerprint=name.encode().hex().ljust(64, "0"), **more)


@pytest.fixture
def models(store: Any) -> Any:
    """The registry of a store."""
    return store.models


def test_a_model_is_found_as_it_was_registered(models: Any) -> None:
    """Its manifest too, be it larger than a statement may be; unknown fingerprints have none."""
    manifest = bytes(range(256)) * 13000
    stored = models.add(BASE, manifest)
    assert stored.number > 0 and replace(stored, number=0) == BASE
    assert models.models() == [stored]
    assert models.manifest(BASE.fingerprint) == manifest
    assert models.manifest("cd" * 32) is None


def test_the_newest_revision_is_the_last_registered(models: Any) -> None:
    """Not the one with the latest time: clocks differ."""
    first = models.add(BASE, b"1")
    second = models.add(revision("v0", created_s=3.0), b"2")
    assert models.resolve("org/base", 1001) == second
    assert models.resolve("org/base@v1", 1001) == first
    assert models.models() == [first, second]


def test_the_same_again_is_read_from_where_it_lies_now_and_other_content_is_refused(models: Any) -> None:
    """A revision never changes under those who use it; its files may move. Who may read it stays."""
    stored = models.add(BASE, b"1")
    models.add(replace(BASE, key=ModelKey("org/other", "v1"), fingerprint="ef" * 32), b"3")
    models.share(BASE.key, gid=50, public=False)
    assert models.add(BASE, b"1") == replace(stored, gid=50)
    moved = models.add(replace(BASE, storage="/elsewhere", created_s=9.0, public=True), b"1")
    assert moved == replace(stored, storage="/elsewhere", gid=50)
    with pytest.raises(NameTaken, match="other content"):
        models.add(replace(BASE, fingerprint="cd" * 32, storage="/third"), b"2")
    with pytest.raises(NameTaken, match="another user's"):
        models.add(replace(BASE, uid=1002, storage="/evil"), b"1")
    assert models.resolve("org/base", 1001) == moved and models.manifest(BASE.fingerprint) == b"1"
    assert models.resolve("org/other", 1001).storage == BASE.storage


def test_a_name_is_its_first_owners(models: Any) -> None:
    """Nobody slips a revision under another's name, until the last one is removed."""
    models.add(BASE, b"1")
    theirs = revision("v2", uid=1002, owner="bob")
    with pytest.raises(NameTaken, match="another user's"):
        models.add(theirs, b"2")
    with pytest.raises(NameTaken, match="another user's"):
        models.add(replace(BASE, uid=1002), b"1")
    assert models.remove(BASE.key) and not models.remove(BASE.key)
    assert models.manifest(BASE.fingerprint) is None
    assert models.add(theirs, b"2").uid == 1002


def test_who_may_not_read_a_model_does_not_hear_of_it(models: Any) -> None:
    """Owner, group, everyone; the rest is told what it would be told of a model that is not there."""
    models.add(BASE, b"1")
    with pytest.raises(UnknownModel) as denied:
        models.resolve("org/base", 1002, {50})
    models.remove(BASE.key)
    with pytest.raises(UnknownModel) as absent:
        models.resolve("org/base", 1002, {50})
    assert str(denied.value) == str(absent.value)
    models.add(BASE, b"1")
    assert models.share(BASE.key, gid=50, public=False)
    assert models.share(BASE.key, gid=50, public=False)
    assert models.resolve("org/base", 1002, {50}).gid == 50
    with pytest.raises(UnknownModel):
        models.resolve("org/base", 1003, {51})
    assert models.share(BASE.key, gid=None, public=True)
    assert models.resolve("org/base", 1003).public
    assert not models.share(ModelKey("org/none", "v1"), gid=None, public=True)


def test_unknown_models_come_with_the_nearest(models: Any) -> None:
    """Of those that the asker may read."""
    models.add(BASE, b"1")
    models.add(replace(BASE, key=ModelKey("org/secret-base", "v1"), fingerprint="ee" * 32, uid=7), b"3")
    with pytest.raises(UnknownModel, match="the nearest: org/base$"):
        models.resolve("org/bsae", 1001)
    with pytest.raises(UnknownModel, match="revisions: org/base@v1$"):
        models.resolve("org/base@v9", 1001)
    with pytest.raises(UnknownModel, match="model list"):
        models.resolve("zzz", 1001)


def test_pins_come_and_go_with_the_model(models: Any) -> None:
    """Pinning again changes nothing."""
    models.add(BASE, b"1")
    assert models.pin(BASE.key, ["n2", "n1"]) and models.pin(BASE.key, ["n1", "n3"])
    assert models.models()[0].pinned_nodes == ("n1", "n2", "n3")
    assert models.unpin(BASE.key, ["n2", "n9"])
    assert models.models()[0].pinned_nodes == ("n1", "n3")
    assert not models.pin(ModelKey("org/none", "v1"), ["n1"])
    assert not models.unpin(ModelKey("org/none", "v1"), ["n1"])
    models.remove(BASE.key)
    models.add(BASE, b"1")
    assert models.models()[0].pinned_nodes == ()


def test_a_nodes_inventory_replaces_what_was_known_of_it(models: Any) -> None:
    """A node that is gone has nothing until it says so again."""
    disk = replace(COPY, tier=TierKind.DISK, state=StageState.RECEIVING, ready_bytes=3, pins=(), why="slow")
    other = replace(COPY, node="n2", key=ModelKey("org/base", "v0"))
    models.put_replicas("n1", [COPY, disk])
    models.put_replicas("n2", [other])
    assert models.replicas() == [disk, COPY, other]
    assert models.replicas(BASE.key) == [disk, COPY]
    assert [each.complete for each in models.replicas(BASE.key)] == [False, True]
    models.put_replicas("n1", [COPY])
    models.node_gone("n2")
    assert models.replicas() == [COPY]


def test_use_counts_what_is_registered_and_what_is_in_memory(models: Any) -> None:
    """Whole models from when they begin to arrive; copies of what was removed or is another's count for nobody."""
    models.add(BASE, b"1")
    models.add(revision("v2", size=10), b"2")
    arriving = replace(COPY, node="n2", state=StageState.RECEIVING, ready_bytes=1)
    stale = replace(COPY, node="n3", fingerprint="cd" * 32)
    failed = replace(COPY, node="n4", state=StageState.FAILED)
    for replica in (COPY, arriving, stale, failed):
        models.put_replicas(replica.node, [replica, replace(replica, tier=TierKind.DISK)])
    assert models.usage(1001) == ModelUsage(
        models=2, registered_bytes=(5 << 40) + 10, staged_bytes={"n1": 5 << 40, "n2": 5 << 40}
    )
    assert models.usage(1002) == ModelUsage()


def test_two_who_register_one_name_at_once_get_one_winner(models: Any) -> None:
    """Whoever comes second is told, and finds nothing half made."""
    told: list[object] = []
    gate = threading.Barrier(4)

    def register(uid: int) -> None:
        gate.wait()
        try:
            told.append(models.add(revision(f"v{uid}", uid=uid, size=uid), bytes([uid]) * 3000))
        except NameTaken as error:
            told.append(error)

    threads = [threading.Thread(target=register, args=(uid,)) for uid in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    [won] = [each for each in told if isinstance(each, ModelEntry)]
    assert models.models() == [won] and len(told) == 4
    assert models.manifest(won.fingerprint) == bytes([won.uid]) * 3000
