"""Models in memory and on the own disk: from one to the other, pinned, evicted."""

from __future__ import annotations

import pytest

from slurmext.staging.errors import StagingError
from slurmext.staging.store.tier import TierKind

from .conftest import Cluster, eventually


def test_from_disk_to_memory_and_to_other_nodes(cluster: Cluster, model):
    """The disk tier serves as the memory tier does."""
    for node in ("n0", "n1"):
        cluster.start(node)
    cluster.seed("n0", model)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0", tier=TierKind.DISK))
    cluster.complete(model.manifest, "n1", tier=TierKind.DISK)
    cluster.engines["n0"].evict(model.manifest.key)
    cluster.engines["n0"].stage(cluster.order(model.manifest, "n1"))
    cluster.complete(model.manifest, "n0")


def test_what_the_own_disk_has_is_not_fetched(cluster: Cluster, model):
    """It is read from there into memory; damaged on the disk, the rest comes from the peer that the order names."""
    for node in ("n0", "n1"):
        cluster.start(node)
    cluster.seed("n0", model)
    own = cluster.engines["n1"]
    own.stage(cluster.order(model.manifest, "n0", tier=TierKind.DISK))
    cluster.complete(model.manifest, "n1", tier=TierKind.DISK)
    own.stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")
    assert next(one for one in own.progress() if one.tier is TierKind.MEMORY).received == {
        "(disk)": model.manifest.size
    }
    own.evict(model.manifest.key)
    damaged = own.find(model.manifest.key, TierKind.DISK)
    damaged.view(8)[:10] = bytes(10)
    own.stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")
    told = next(one for one in own.progress() if one.tier is TierKind.MEMORY)
    assert told.rejected == ("(disk)",)
    assert told.received["n0"] >= model.manifest.lengths[8]


def test_pinned_models_stay_and_others_go(cluster: Cluster, model):
    """Also while they are being served."""
    cluster.start("n0", tx_cap_bps=60e6)
    cluster.start("n1")
    cluster.seed("n0", model)
    assert cluster.engines["n0"].pin(model.manifest.key, "job-1")
    with pytest.raises(StagingError, match="job-1"):
        cluster.engines["n0"].evict(model.manifest.key)
    cluster.engines["n0"].unpin(model.manifest.key, "job-1")
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    eventually(lambda: (one := cluster.engines["n1"].find(model.manifest.key)) is not None and one.ready_chunks >= 2)
    cluster.engines["n0"].evict(model.manifest.key)
    assert cluster.engines["n0"].progress() == ()
    assert not (cluster.room / "n0" / "memory" / "org--m" / "v1").exists()
