"""A model from one engine to a second and on to a third, every byte over RDMA writes. Runs in the guest.

Outside of it, with HOST=127.0.0.1 and UCX_TLS=tcp, the same writes go over TCP; MIXED=1 gives the last engine sockets only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1] / "unit"), os.environ["NIXL_PLACE"]]


def main() -> None:
    """Two hops; prints what came of it."""
    from agent.conftest import KeyedMunge
    from staging.conftest import write_model

    from slurmext.adapters.transport.handshake import Identity
    from slurmext.adapters.transport.nixl import NixlInlet, NixlTransport
    from slurmext.adapters.transport.sockets import SocketTransport
    from slurmext.agent.staging.engine import StagingEngine
    from slurmext.staging.importer import import_model
    from slurmext.staging.order import Source, StageOrder
    from slurmext.staging.plan.fabric import STORAGE
    from slurmext.staging.store.tier import Tier, TierKind
    from slurmext.staging.transport import Peer

    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(threadName)s %(message)s")
    room = Path(tempfile.mkdtemp(dir="/dev/shm"))
    files = write_model(room / "files", tensors=4, tensor_bytes=2 << 20)
    manifest = import_model(files, "org/m", "v1").manifest
    inlets: list[str] = []

    class Watched(NixlTransport):
        def opened(self, *words):
            inlet = super().opened(*words)
            inlets.append(type(inlet).__name__)
            return inlet

    engines = {}
    for node in ("n0", "n1", "n2"):
        tier = Tier(room / node, TierKind.MEMORY, capacity_bytes=64 << 20)
        kind = SocketTransport if node == "n2" and os.environ.get("MIXED") else Watched
        transport = kind(f"{os.environ.get('HOST', '10.77.0.1')}:0", Identity(node=node, prover=KeyedMunge()))
        engines[node] = StagingEngine({TierKind.MEMORY: tier}, transport, give_up_s=60)
        engines[node].start()
        engines[node].learn(manifest)
    peers = {node: Peer(node=node, address="{}:{}".format(*engine.address)) for node, engine in engines.items()}
    peers[STORAGE] = Peer(node=STORAGE, address=str(files))
    before = packets()
    started = time.monotonic()
    for node, source in (("n2", "n1"), ("n1", "n0"), ("n0", STORAGE)):
        order = StageOrder(key=manifest.key, fingerprint=manifest.fingerprint(), sources=(Source(peer=peers[source]),))
        engines[node].stage(order)
    complete = {node: engine.wait(manifest.key, 240) for node, engine in engines.items()}
    same = {
        node: all(
            hashlib.sha256((room / node / "org--m" / "v1" / entry.name).read_bytes()).hexdigest() == entry.sha256
            for entry in manifest.files
        )
        for node in engines
    }
    told = {
        "complete": complete, "same": same, "size": manifest.size, "seconds": round(time.monotonic() - started, 1),
        "inlets": inlets, "rdma_packets": packets() - before,
        "why": [one.why for engine in engines.values() for one in engine.progress()],
    }  # fmt: skip
    print("RESULT " + json.dumps(told), flush=True)
    assert NixlInlet is not None
    os._exit(0)


def packets() -> int:
    """Packets the soft-RoCE device has sent."""
    counter = Path("/sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts")
    return int(counter.read_text()) if counter.exists() else 0


if __name__ == "__main__":
    main()
