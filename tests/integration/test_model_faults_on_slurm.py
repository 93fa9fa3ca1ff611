"""A job's models while slurmextd conducts: a relay's agent dies, its link goes down, or becomes ten times slower.

Each node has a network of its own, so that a link can be taken away. Shared storage is not behind these links; it is
not read again, for another node has the model. All of it over sockets, and over NIXL where that is installed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster, namespaces, netns
from tests.integration.test_preload_on_slurm import MIB, SUM, Staged

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RATE, SLOW = "100mbit", "10mbit"
MODEL_MIB = 64
TARGETS = ("n2", "n3", "n4")
BEGUN_MIB = 6
"""A node that has sent so much of the model to others is in the middle of passing it on."""


class Links:
    """The nodes' links, from the host's end."""

    def __init__(self, cluster: Devcluster) -> None:
        self._cluster = cluster

    def _outer(self, node: str) -> str:
        return f"{netns.bridge(self._cluster.record)}{node}"

    def sent(self, node: str) -> int:
        """Bytes that the node has sent so far."""
        return int(Path(f"/sys/class/net/{self._outer(node)}/statistics/rx_bytes").read_text())

    def received(self, node: str) -> int:
        """Bytes that the node has got so far."""
        return int(Path(f"/sys/class/net/{self._outer(node)}/statistics/tx_bytes").read_text())

    def switch(self, node: str, state: str) -> None:
        """Up or down."""
        subprocess.run(["ip", "link", "set", self._outer(node), state], check=True)

    def rate(self, node: str, rate: str) -> None:
        """What the link carries, in both directions."""
        inside = namespaces.entry(self._cluster.layout, namespaces.node_holder(node), "net")
        for prefix, device in ((), self._outer(node)), (inside, "eth0"):
            words = ["tc", "qdisc", "change", "dev", device, "root", "tbf", "rate", rate, "burst", "125000"]
            subprocess.run([*prefix, *words, "latency", "50ms"], check=True)


class Faults:
    """What happens to a relay; `mend` ends it."""

    def __init__(self, staged: Staged, links: Links) -> None:
        self._staged, self._links = staged, links
        self.mend: Callable[[], None] = lambda: None

    def killed(self, node: str) -> None:
        """Its agent, as by a crash."""
        self._staged.cluster.kill(f"agent@{node}")
        self.mend = lambda: self._staged.cluster.start(f"agent@{node}")

    def cut_off(self, node: str) -> None:
        """The node is not reached by anybody."""
        self._links.switch(node, "down")
        self.mend = lambda: self._links.switch(node, "up")

    def slowed(self, node: str) -> None:
        """Its link carries a tenth."""
        self._links.rate(node, SLOW)
        self.mend = lambda: self._links.rate(node, RATE)


def nixl_path(folder: Path) -> str:
    """What agents find NIXL by; over TCP, else UCX goes around the nodes' links through shared memory."""
    place = Path(os.environ.get("SLURMEXT_RDMA_ROOM", "/var/cache/slurmext-rdma")) / "nixl"
    if not place.exists() and importlib.util.find_spec("nixl_cu12") is None:
        pytest.skip("NIXL is not installed: scripts/rdma-guest.sh")
    (folder / "sitecustomize.py").write_text('import os\nos.environ["UCX_TLS"] = "tcp"\n')
    return f"{folder}:{place}"


@pytest.fixture(scope="module", params=["sockets", "nixl"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Staged, Links]]:
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    staging = {"memory_gib": 0.25, "transport": request.param}
    rooms = {"daemon": {"interval_s": 5, "heartbeat_stale_s": 8}, "staging": staging}
    spec = ClusterSpec(
        name=f"test-relays-{os.getpid()}", nodes=4, gpus=2, users=("bob",), netns=True, rate=RATE, site=rooms
    )
    with pytest.MonkeyPatch.context() as environment:
        if request.param == "nixl":
            environment.setenv("PYTHONPATH", nixl_path(tmp_path_factory.mktemp("nixl")))
        with Devcluster.up(spec) as cluster:
            staged = Staged(cluster)
            staged.until(staged.connected)
            yield staged, Links(cluster)
            used = [Path(f"/proc/{cluster.pid(f'agent@{node}')}/maps").read_text() for node in cluster.node_names]
            assert all(("libucp" in maps) == (request.param == "nixl") for maps in used)
            staged.store.close()


@pytest.mark.parametrize("fault", ["killed", "cut_off", "slowed"])
def test_a_relay_that_fails_holds_up_nobody_but_itself(site: tuple[Staged, Links], fault: str) -> None:
    """The others get the model from elsewhere while it is away; it gets the rest when it is back; the job has it all."""
    staged, links = site
    faults, name = Faults(staged, links), f"site/{fault.replace('_', '-')}"
    folder = staged.model(name, MODEL_MIB)
    staged.slurmext("model", "stage", name, "-w", "n1")
    staged.until(lambda: staged.copies(name).get("n1") == "complete")
    before = {node: links.sent(node) for node in TARGETS}
    began_s = time.monotonic()
    job = staged.submit(
        "bob",
        "-N3",
        "-wn[2-4]",
        "--ntasks-per-node=1",
        "--gres=gpu:1",
        f"--preload={name}",
        script=f"srun sh -c '{SUM}'",
    )

    def relaying() -> str | None:
        return next((node for node in TARGETS if links.sent(node) - before[node] > BEGUN_MIB * MIB), None)

    relay = staged.until(relaying)
    lost_s = time.monotonic()
    try:
        getattr(faults, fault)(relay)
        others = {node: links.received(node) for node in TARGETS if node != relay}

        def have_it() -> bool:
            return all(staged.copies(name).get(node) == "complete" for node in others)

        def go_on() -> bool:
            return have_it() or all(links.received(node) - got > BEGUN_MIB * MIB for node, got in others.items())

        # Its prolog waits ten seconds for an agent that is away.
        staged.until(go_on if fault == "killed" else have_it)
        assert fault == "slowed" or staged.copies(name).get(relay) != "complete"
    finally:
        faults.mend()
    staged.until(have_it)
    others_s = time.monotonic()
    assert staged.ended(job).split() == [staged.digest(folder), "-"] * len(TARGETS)
    ideal_s = MODEL_MIB * MIB * 8 / netns.bits_per_s(RATE)
    print(
        f"{relay} {fault} after {lost_s - began_s:.1f} s: the others had it after {others_s - began_s:.1f} s, the job was "
        f"over after {time.monotonic() - began_s:.1f} s; undisturbed {ideal_s:.1f} s for the bytes alone"
    )
    staged.evict(name)
    staged.settle()
