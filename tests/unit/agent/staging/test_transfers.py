"""Models between agents: relayed while received, resumed, in order, taken from several at once."""

from __future__ import annotations

import select
import socket
import threading

from staging.conftest import noise, safetensors

from slurmext.adapters.transport.framing import fill_exactly
from slurmext.staging.access import Access
from slurmext.staging.importer import import_model
from slurmext.staging.order import Source, StageState
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.store.tier import TierKind
from slurmext.staging.transport import Peer

from .conftest import Cluster, eventually, write_model


def test_a_chain_relays_while_it_receives(cluster: Cluster, model):
    """Orders may arrive in any order; every node ends with every byte, the last ones with a paced source as well."""
    for node in ("n0", "n1", "n2", "n3"):
        cluster.start(node, tx_cap_bps=200e6 if node == "n0" else None)
    cluster.seed("n0", model)
    for node, source in (("n3", "n2"), ("n2", "n1"), ("n1", "n0")):
        cluster.engines[node].stage(cluster.order(model.manifest, source, backups=("n0",) if source != "n0" else ()))
    first = cluster.engines["n1"]
    eventually(lambda: (one := cluster.engines["n3"].find(model.manifest.key)) is not None and one.ready_chunks > 2)
    assert not first.find(model.manifest.key).complete, "the last node began before the first one was done"
    cluster.complete(model.manifest, "n1", "n2", "n3")
    assert [one.state for one in first.progress()] == [StageState.COMPLETE]
    assert first.progress()[0].received == {"n0": model.manifest.size}


def test_two_sources_are_striped(cluster: Cluster, model):
    """Each sends about its share; when one is done early it helps the other."""
    for node in ("n0", "n1", "n2"):
        cluster.start(node, tx_cap_bps=100e6)
    cluster.seed("n0", model)
    cluster.seed("n1", model)
    sources = [Source(peer=cluster.peer(node), share=share) for node, share in (("n0", 0.25), ("n1", 0.75))]
    cluster.engines["n2"].stage(cluster.order(model.manifest, *sources))
    cluster.complete(model.manifest, "n2")
    received = cluster.engines["n2"].progress()[0].received
    assert sum(received.values()) == model.manifest.size
    assert min(received.values()) > model.manifest.size // 5


def test_shared_storage_is_read_once(cluster: Cluster, model):
    """By the head of the chain; the others take it from there."""
    for node in ("n0", "n1"):
        cluster.start(node).learn(model.manifest)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    storage = Source(peer=Peer(node=STORAGE, address=str(model.tree.root)))
    cluster.engines["n0"].stage(cluster.order(model.manifest, storage))
    cluster.complete(model.manifest, "n0", "n1")
    assert cluster.engines["n0"].progress()[0].received == {STORAGE: model.manifest.size}
    assert cluster.engines["n1"].progress()[0].received == {"n0": model.manifest.size}


def test_a_transfer_resumes_where_it_was(cluster: Cluster, model):
    """After an agent's end nothing that was checked is sent again."""
    cluster.start("n0", tx_cap_bps=40e6)
    cluster.start("n1")
    cluster.seed("n0", model)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    eventually(lambda: (one := cluster.engines["n1"].find(model.manifest.key)) is not None and one.ready_chunks >= 8)
    cluster.engines["n1"].stop()
    again = cluster.start("n1")
    had = again.find(model.manifest.key).ready_bytes
    assert had >= 2 << 20  # the small files come first
    cluster.engines["n0"]._tx_cap_bps = None
    again.stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")
    assert again.progress()[0].received == {"n0": model.manifest.size - had}


def test_what_other_models_have_is_not_sent(cluster: Cluster, model, tmp_path):
    """A fine-tune travels as what it changed."""
    for node in ("n0", "n1"):
        cluster.start(node)
    tuned = import_model(write_model(tmp_path / "tuned", seeds=(0, 1, 99, 3), tensor_bytes=4 << 20), "org/tuned", "v1")
    cluster.seed("n0", model)
    cluster.seed("n0", tuned)
    for manifest in (model.manifest, tuned.manifest):
        cluster.engines["n1"].stage(cluster.order(manifest, "n0"))
        cluster.complete(manifest, "n1")
    sent = sum(next(one for one in cluster.engines["n1"].progress() if one.key == tuned.manifest.key).received.values())
    assert (4 << 20) <= sent < (6 << 20)


def test_sources_change_while_it_runs(cluster: Cluster, model):
    """What the new order says counts; chunks already here are kept."""
    cluster.start("n0", tx_cap_bps=20e6)
    cluster.start("n1")
    cluster.start("n2")
    cluster.seed("n0", model)
    cluster.seed("n1", model)
    cluster.engines["n2"].stage(cluster.order(model.manifest, "n0"))
    eventually(lambda: (one := cluster.engines["n2"].find(model.manifest.key)) is not None and one.ready_chunks >= 2)
    cluster.engines["n2"].stage(cluster.order(model.manifest, "n1"))
    cluster.complete(model.manifest, "n2")
    received = cluster.engines["n2"].progress()[0].received
    assert received["n1"] > received["n0"] > 0


def test_two_orders_at_once_are_one_transfer(cluster: Cluster, model):
    """Whoever asks."""
    for node in ("n0", "n1"):
        cluster.start(node)
    cluster.seed("n0", model)
    for _ in range(5):
        cluster.engines["n1"].stage(cluster.order(model.manifest, "n0", access=Access()))
    cluster.complete(model.manifest, "n1")
    assert cluster.engines["n1"].progress()[0].received == {"n0": model.manifest.size}


def test_whoever_waits_next_is_woken_for_less():
    """After an answer that came in pieces a sign of life of a few bytes is still noticed."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours, (theirs, _) = socket.create_connection(listener.getsockname()), listener.accept()
    with listener, ours, theirs:
        later = threading.Timer(0.1, lambda: theirs.sendall(bytes(100_000)))
        later.start()
        fill_exactly(ours, memoryview(bytearray(100_000)))
        theirs.sendall(b"beat")
        assert select.select([ours], [], [], 2)[0] == [ours]
        later.join()


def test_what_the_forward_pass_needs_first_comes_first(cluster: Cluster, tmp_path):
    """From storage and over a link: when the last layers are not there yet, the first ones are."""
    names = [f"layers.{at}.w" for at in (10, 11, 2, 3)]  # as they lie in the file
    (tmp_path / "m").mkdir()
    tensors = {name: ("U8", [4 << 20], noise(4 << 20, at)) for at, name in enumerate(names)}
    (tmp_path / "m" / "model.safetensors").write_bytes(safetensors(tensors))
    deep = import_model(tmp_path / "m", "org/deep", "v1")
    for node in ("n0", "n1"):
        cluster.start(node, tx_cap_bps=60e6)
    cluster.seed("n0", deep)
    came: list[int] = []
    staged = cluster.engines["n1"]._tier(TierKind.MEMORY).create(deep.manifest, Access())
    staged.follow(came.append)
    cluster.engines["n1"].learn(deep.manifest)
    cluster.engines["n1"].stage(cluster.order(deep.manifest, "n0"))
    cluster.complete(deep.manifest, "n1")
    assert came == [deep.manifest.of_rank(rank) for rank in range(deep.manifest.chunk_count)]
    assert came != sorted(came)
