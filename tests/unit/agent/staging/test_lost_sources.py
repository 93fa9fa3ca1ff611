"""Sources that are lost while a model is received: another takes over, and when nobody is left that is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from slurmext.staging.order import Source, StageState
from slurmext.staging.transport import Peer

from .conftest import Cluster, eventually


def test_a_lost_source_is_replaced_by_its_own_source(cluster: Cluster, model):
    """The receiver turns to the backup at once."""
    cluster.start("n0", tx_cap_bps=60e6)
    for node in ("n1", "n2"):
        cluster.start(node)
    cluster.seed("n0", model)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    cluster.engines["n2"].stage(cluster.order(model.manifest, "n1", backups=("n0",)))
    eventually(lambda: (one := cluster.engines["n2"].find(model.manifest.key)) is not None and one.ready_chunks >= 4)
    cluster.engines["n1"].stop()
    del cluster.engines["n1"]
    cluster.complete(model.manifest, "n2")
    told = cluster.engines["n2"].progress()[0]
    assert set(told.received) == {"n0", "n1"}
    assert "n1" in told.lost


PROCESS = """
import signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from agent.staging.conftest import Cluster
from staging.conftest import *
from slurmext.agent.server import UnixServer
cluster = Cluster(Path({room!r}))
cluster.start({node!r})
print(cluster.peer({node!r}).address, flush=True)
sources = [one for one in sys.stdin.readline().split()]
from slurmext.staging.importer import import_model
from slurmext.staging.transport import Peer
from slurmext.staging.order import Source, StageOrder
manifest = import_model(Path({files!r}), "org/m", "v1").manifest
cluster.engines[{node!r}].stage(StageOrder(key=manifest.key, fingerprint=manifest.fingerprint(),
    sources=(Source(peer=Peer(node="n0", address=sources[0])),)))
signal.pause()
"""


def test_a_relay_that_is_killed_costs_its_receivers_nothing_but_time(cluster: Cluster, model):
    """Kill -9 of a process in the middle: the next node goes on with the source before it, every byte good."""
    cluster.start("n0", tx_cap_bps=60e6)
    cluster.start("n2")
    cluster.seed("n0", model)
    tests = str(Path(__file__).parents[2])
    code = PROCESS.format(paths=[tests], room=str(cluster.room), node="n1", files=str(model.tree.root))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as relay:
        try:
            address = relay.stdout.readline().strip()
            relay.stdin.write(cluster.peer("n0").address + "\n")
            relay.stdin.flush()
            order = cluster.order(model.manifest, Source(peer=Peer(node="n1", address=address)), backups=("n0",))
            cluster.engines["n2"].stage(order)
            eventually(lambda: (one := cluster.engines["n2"].find(model.manifest.key)) and one.ready_chunks >= 4)
        finally:
            os.kill(relay.pid, signal.SIGKILL)
    cluster.complete(model.manifest, "n2")
    assert set(cluster.engines["n2"].progress()[0].received) == {"n0", "n1"}


def test_nobody_left_is_said_with_reasons(cluster: Cluster, model):
    """After the time for giving up; another order with a source that is there goes on from what is here."""
    cluster.start("n0")
    cluster.start("n1", give_up_s=0.5)
    cluster.seed("n0", model)
    cluster.engines["n1"].learn(model.manifest)
    gone = Peer(node="gone", address="127.0.0.1:1")
    cluster.engines["n1"].stage(cluster.order(model.manifest, Source(peer=gone)))
    eventually(lambda: cluster.engines["n1"].progress()[0].state is StageState.FAILED)
    assert "gone" in cluster.engines["n1"].progress()[0].why
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")
