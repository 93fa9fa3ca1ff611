"""Streams: tensors in the order of the forward pass, each as soon as its bytes are there and good."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from slurmext.staging.access import Access
from slurmext.staging.arriving import Stalled
from slurmext.staging.errors import BadManifest, NotStaged
from slurmext.staging.forward import forward_key
from slurmext.staging.importer import Imported, import_model
from slurmext.staging.loader import load, stream
from slurmext.staging.manifest import ANCHOR_BYTES, parse_manifest
from slurmext.staging.places import FALLBACK, ROOTS
from slurmext.staging.store.staged import StagedModel
from slurmext.staging.store.tier import Tier, TierKind
from tests.waiting import until

from .conftest import noise, receive, safetensors, stage, write_model

numpy = pytest.importorskip("numpy")

ORDER = ["model.embed.weight", "model.layers.0.w", "model.layers.2.w", "model.layers.10.w", "model.norm.w", "lm_head.w"]
BYTES = 3 << 19


def layered(directory: Path, *, size: int = BYTES) -> Path:
    """A model whose tensors lie in the order of their names, as usual writers put them."""
    directory.mkdir(parents=True)
    content = {name: ("U8", [size], noise(size, at)) for at, name in sorted(enumerate(ORDER), key=lambda one: one[1])}
    (directory / "model.safetensors").write_bytes(safetensors(content))
    (directory / "config.json").write_text("{}")
    return directory


class Arrival:
    """A model that is being received."""

    def __init__(self, root: Path, files: Path) -> None:
        self.imported: Imported = import_model(files, "org/m", "v1")
        self.tier = Tier(root, TierKind.MEMORY, capacity_bytes=1 << 28)
        self.staged: StagedModel = self.tier.create(self.imported.manifest, Access())

    def chunks(self, *tensors: str) -> set[int]:
        """The chunks that hold these tensors, and the file's header."""
        direct = load(self.imported.tree.root, framework="numpy")
        manifest = self.imported.manifest
        number = [one.name for one in manifest.files].index("model.safetensors")
        held = set(manifest.chunks_of(number, 0, 8))
        for name in tensors:
            entry = direct.entry(name)
            held.update(manifest.chunks_of(number, entry.begin, entry.end))
        return held


@pytest.fixture
def arrival(memory, tmp_path):
    made = Arrival(memory / "t", layered(tmp_path / "m"))
    yield made
    made.tier.close()


def test_names_tell_the_order():
    """Embeddings, layers by number, what has no number, the head."""
    assert sorted(ORDER, key=forward_key) == ORDER
    gpt = [
        "transformer.wte.weight",
        "transformer.h.1.attn.weight",
        "transformer.h.11.attn.weight",
        "transformer.ln_f.bias",
    ]
    assert sorted(sorted(gpt), key=forward_key) == gpt
    both = ["shared.weight", "encoder.block.9.w", "decoder.block.0.w", "lm_head.weight"]
    assert sorted(sorted(both), key=forward_key) == both


def test_chunks_are_sent_in_that_order(tmp_path):
    """The header and small files first, then chunks as the tensors are needed; an order is kept in the manifest."""
    files = layered(tmp_path / "m", size=ANCHOR_BYTES + 7)
    manifest = import_model(files, "org/m").manifest
    entries = load(files, framework="numpy")
    number = [one.name for one in manifest.files].index("model.safetensors")
    first = [manifest.chunks_of(number, entries.entry(name).begin, entries.entry(name).begin + 1)[0] for name in ORDER]
    ranks = [manifest.rank(index) for index in first]
    assert ranks == sorted(ranks)
    assert first != sorted(first)
    early = {*manifest.chunks_of(0, 0, 2), *manifest.chunks_of(number, 0, 8)}
    assert {manifest.of_rank(0), manifest.of_rank(1)} == early
    assert sorted(map(manifest.of_rank, range(manifest.chunk_count))) == list(range(manifest.chunk_count))
    again = parse_manifest(manifest.dump(), fingerprint=manifest.fingerprint())
    assert again.order == manifest.order
    assert import_model(write_model(tmp_path / "plain"), "org/plain").manifest.order == ()
    for order in (((0, 1),), ((0, manifest.chunk_count), (0, 1)), ((1, 0), (0, manifest.chunk_count - 1))):
        with pytest.raises(BadManifest, match="order"):
            replace(manifest, order=order)
    with pytest.raises(BadManifest, match="place among"):
        parse_manifest(manifest.dump().replace(b'"order":[[', b'"order":[[-1,1],[', 1))


def test_a_complete_model_streams_in_forward_order(memory, tmp_path):
    """From memory and from disk the same."""
    files = layered(tmp_path / "m")
    stage(memory / "t", files, "org/m")
    for model in ("org/m", files):
        told = list(stream(model, framework="numpy", roots=str(memory / "t")))
        assert [name for name, _ in told] == ORDER
        assert all(tensor.tobytes() == noise(BYTES, ORDER.index(name)) for name, tensor in told)


def test_tensors_are_given_before_the_model_is_complete(arrival, memory):
    """The first ones while the last one has not arrived; nothing is given whose bytes are not there."""
    given: list[str] = []
    everything = set(range(arrival.imported.manifest.chunk_count))
    last = everything - arrival.chunks(*ORDER[:-1])
    assert last & arrival.chunks("lm_head.w")
    receive(arrival.staged, arrival.imported, sorted(everything - last))

    def take() -> None:
        for name, tensor in stream("org/m", framework="numpy", roots=str(memory / "t"), wait_s=20):
            assert tensor.tobytes() == noise(BYTES, ORDER.index(name)), name
            given.append(name)

    taker = threading.Thread(target=take)
    taker.start()
    until(lambda: given == ORDER[:-1], scene=lambda: given)
    time.sleep(0.1)
    assert given == ORDER[:-1], "given before its bytes were there"
    receive(arrival.staged, arrival.imported, sorted(last))
    taker.join(10)
    assert given == ORDER


def test_a_tensor_waits_for_its_own_bytes_only(memory, tmp_path):
    """Not for those that share a page with it, its file's header included: the next file's come much later."""
    size = ANCHOR_BYTES + 7
    files = tmp_path / "m"
    files.mkdir()
    for number in range(2):
        content = {f"layers.{number}.{at}": ("U8", [size], noise(size, 2 * number + at)) for at in range(2)}
        (files / f"model-{number}.safetensors").write_bytes(safetensors(content))
    made = Arrival(memory / "t", files)
    manifest = made.imported.manifest
    heads = [manifest.starts[0], manifest.starts[1]]
    first = manifest.chunks_of(0, 0, load(files, framework="numpy").entry("layers.0.0").end)
    receive(made.staged, made.imported, sorted({*heads, *first}))
    taken = stream("org/m", framework="numpy", roots=str(memory / "t"), wait_s=20)
    name, tensor = next(taken)
    assert (name, tensor.tobytes()) == ("layers.0.0", noise(size, 0))
    tensor[:] = 0
    receive(made.staged, made.imported, sorted(set(range(manifest.chunk_count)) - {*heads, *first}))
    assert [each.tobytes() == noise(size, number + 1) for number, (_, each) in enumerate(taken)] == [True] * 3
    made.tier.close()


def test_what_a_job_writes_does_not_hide_what_arrives(memory, tmp_path):
    """Two tensors share a page: writing to the first must not keep the bytes of the second as they were."""
    size = ANCHOR_BYTES + 7  # each begins a chunk of its own, in the middle of a page
    made = Arrival(memory / "t", layered(tmp_path / "m", size=size))
    everything = set(range(made.imported.manifest.chunk_count))
    first = made.chunks(ORDER[0])
    later = everything - first
    receive(made.staged, made.imported, sorted(first))
    taken = stream("org/m", framework="numpy", roots=str(memory / "t"), wait_s=20)
    rest = threading.Timer(0.3, lambda: receive(made.staged, made.imported, sorted(later)))
    rest.start()
    name, tensor = next(taken)
    assert name == ORDER[0]
    tensor[:] = 0
    for other, content in taken:
        assert content.tobytes() == noise(size, ORDER.index(other)), other
        content[:] = 0
    rest.join()
    made.tier.close()


def test_when_nothing_more_arrives_the_rest_is_read_from_storage(arrival, memory, monkeypatch, caplog):
    """Each tensor once, and it is said; without storage it is an error."""
    files = arrival.imported.tree.root
    receive(arrival.staged, arrival.imported, sorted(arrival.chunks(ORDER[0], "lm_head.w")))
    with pytest.raises(Stalled, match=r"for 0.2 s"):
        list(stream("org/m", framework="numpy", roots=str(memory / "t"), wait_s=0.2))
    monkeypatch.setenv(FALLBACK, f"org/m@v1={files}")
    with caplog.at_level(logging.WARNING):
        told = list(stream("org/m", framework="numpy", roots=str(memory / "t"), wait_s=0.2))
    assert [name for name, _ in told] == ORDER
    assert all(tensor.tobytes() == noise(BYTES, ORDER.index(name)) for name, tensor in told)
    assert f"reading the rest from {files}" in caplog.text


def test_an_evicted_model_is_not_waited_for(arrival, memory):
    """Long before the time is over."""
    receive(arrival.staged, arrival.imported, [0, 1])
    threading.Timer(0.2, lambda: shutil.rmtree(arrival.staged.directory)).start()
    with pytest.raises(NotStaged, match="evicted"):
        list(stream("org/m", framework="numpy", roots=str(memory / "t"), wait_s=60))


def test_a_model_that_has_not_begun_is_waited_for(memory, tmp_path, monkeypatch):
    """Where the job looks for it; and not longer than it wants."""
    files = layered(tmp_path / "m")
    monkeypatch.setenv(ROOTS, str(memory / "t"))
    threading.Timer(0.3, lambda: stage(memory / "t", files, "org/m")).start()
    assert [name for name, _ in stream("org/m", framework="numpy", wait_s=20)] == ORDER
    with pytest.raises(NotStaged):
        list(stream("org/absent", framework="numpy", wait_s=0.1))
