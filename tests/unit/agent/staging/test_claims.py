"""Chunks that a source reads ahead to where they belong are nobody else's until they are there or it has ended."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from pathlib import Path

import pytest

from slurmext.agent.staging.reception import Reception
from slurmext.staging.access import Access
from slurmext.staging.importer import Imported, import_model
from slurmext.staging.order import Source, StageOrder
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.store.tier import Tier, TierKind
from slurmext.staging.transport import Claim, LinkLost, Peer, Run

from .conftest import Cluster, eventually


class Scripted:
    """A link that gives what a test tells it to; `True` fills in the right bytes, `False` wrong ones."""

    def __init__(self, name: str, model: Imported, claim: Claim) -> None:
        self.peer = Peer(node=name, address="")
        self.claim = claim
        self.said: queue.Queue[tuple[int, bool] | None] = queue.Queue()
        self.wanted: set[int] = set()
        self.thrown_away: list[int] = []
        self._model, self._good = model, True

    def want(self, chunks: Sequence[int], *, drop: bool = False) -> None:
        (self.wanted.difference_update if drop else self.wanted.update)(chunks)

    def receive(self) -> Run | int:
        said = self.said.get()
        if said is None:
            raise LinkLost(f"{self.peer.node}: lost")
        self._good = said[1]
        return Run(said[0], 1)

    def fill(self, index: int, place: memoryview | None) -> None:
        if place is None:
            self.thrown_away.append(index)
        else:
            place[:] = content(self._model, index) if self._good else bytes(len(place))

    def stop(self) -> None:
        self.said.put(None)

    def close(self) -> None:
        pass


def content(model: Imported, index: int) -> bytes:
    chunk = model.manifest.chunk(index)
    whole = (model.tree.root / model.manifest.files[chunk.file].name).read_bytes()
    return whole[chunk.offset : chunk.offset + chunk.length]


@pytest.fixture
def small(tmp_path: Path) -> Imported:
    """Four chunks."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w.bin").write_bytes(bytes(range(256)) * 8192)
    return import_model(tmp_path / "m", "org/small", "v1")


def test_what_one_source_reads_ahead_no_other_touches(small: Imported, tmp_path: Path):
    """Another's bytes for it are thrown away; when the one that reads is lost, the other may bring them."""
    staged = Tier(tmp_path / "t", TierKind.MEMORY, capacity_bytes=64 << 20).create(small.manifest, Access())
    links: dict[str, Scripted] = {}

    def connect(source: Source, claim: Claim) -> Scripted:
        return links.setdefault(source.peer.node, Scripted(source.peer.node, small, claim))

    reception = Reception(staged, connect, give_up_s=30)
    sources = tuple(Source(peer=Peer(node=name, address="")) for name in "ab")
    key, fingerprint = small.manifest.key, small.manifest.fingerprint()
    reception.start(StageOrder(key=key, fingerprint=fingerprint, sources=sources))
    eventually(lambda: len(links) == 2 and links["a"].wanted | links["b"].wanted == {0, 1, 2, 3})
    a, b = links["a"], links["b"]
    assert a.claim(Run(1, 2))
    assert not b.claim(Run(2, 2)), "it is being read"
    for index in (1, 0):
        b.said.put((index, True))
    eventually(lambda: staged.has(0))
    assert b.thrown_away == [1] and not staged.has(1)
    assert not a.claim(Run(0, 1)), "it is good"
    a.said.put((2, True))
    eventually(lambda: staged.has(2))
    a.said.put(None)
    eventually(lambda: b.claim(Run(1, 1)))
    eventually(lambda: {1, 3} <= b.wanted)
    for index in (1, 3):
        b.said.put((index, True))
    assert staged.wait(10) and staged.recheck() == []
    reception.join(5)


def test_what_is_good_here_stays_so_whatever_lies_beside_what_is_read(cluster: Cluster, model: Imported):
    """Chunks begin in the middle of sectors: of those that are here, no byte comes from damaged storage."""
    cluster.start("n0").learn(model.manifest)
    staged = cluster.engines["n0"]._tier(TierKind.MEMORY).create(model.manifest, Access())
    even = range(0, model.manifest.chunk_count, 2)
    for index in even:
        staged.view(index)[:] = content(model, index)
        staged.mark(index)
    for index in even:
        chunk = model.manifest.chunk(index)
        with (model.tree.root / model.manifest.files[chunk.file].name).open("r+b") as file:
            file.seek(chunk.offset)
            file.write(b"\xee" * chunk.length)
    cluster.engines["n0"].stage(
        cluster.order(model.manifest, Source(peer=Peer(node=STORAGE, address=str(model.tree.root))))
    )
    cluster.complete(model.manifest, "n0")
