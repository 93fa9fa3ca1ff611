"""`make test-rdma`: the transfer code over RDMA verbs. Needs root, QEMU and some minutes; part of `make test-all`."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from .guest import MARK, run_in_guest

ROOM = Path(os.environ.get("SLURMEXT_RDMA_ROOM", "/var/cache/slurmext-rdma"))
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.skipif(os.geteuid() != 0, reason="a guest over the host's files needs root")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the guest is x86-64")
@pytest.mark.skipif(not Path("/usr/bin/apt-get").exists(), reason="scripts/rdma-guest.sh needs apt")
def test_a_model_is_relayed_over_rdma(tmp_path):
    """Two hops of RDMA writes: the receivers' bytes are the model's, and they came over the RDMA device."""
    subprocess.run([str(ROOT / "scripts" / "rdma-guest.sh"), str(ROOM)], check=True)
    environment = {
        "LD_LIBRARY_PATH": str(ROOM / "verbs"),
        "UCX_TLS": "rc",
        "UCX_NET_DEVICES": "rxe0:1",
        "NIXL_PLACE": str(ROOM / "nixl"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    told, everything = run_in_guest(ROOM, tmp_path, Path(__file__).with_name("inside.py"), environment)
    assert told is not None, everything[-8000:]
    assert told["complete"] == {"n0": True, "n1": True, "n2": True}, f"{told}\n{everything[-8000:]}"
    assert all(told["same"].values()), told
    assert told["inlets"] == ["NixlInlet", "NixlInlet"]
    # Two hops, and no packet of soft-RoCE carries more than 4 KiB.
    assert told["rdma_packets"] >= 2 * told["size"] / 4096
    print(f"{told['size']} bytes over two hops in {told['seconds']} s, {told['rdma_packets']} packets")


@pytest.mark.parametrize("mixed", [False, True])
def test_the_same_writes_over_tcp(mixed):
    """NIXL where both ends have it, sockets where one has not; nothing is lost in either direction."""
    place = ROOM / "nixl"
    if not place.exists() and importlib.util.find_spec("nixl_cu12") is None:
        pytest.skip("NIXL is not installed: scripts/rdma-guest.sh")
    environment = os.environ | {
        "UCX_TLS": "tcp",
        "HOST": "127.0.0.1",
        "NIXL_PLACE": str(place),
        "MIXED": "1" if mixed else "",
    }
    program = Path(__file__).with_name("inside.py")
    done = subprocess.run(
        [sys.executable, "-P", str(program)], env=environment, check=True, capture_output=True, text=True, timeout=300
    )
    told = json.loads(next(line for line in done.stdout.splitlines() if MARK in line).partition(MARK)[2])
    assert all(told["complete"].values()), done.stdout[-4000:]
    assert all(told["same"].values())
    assert told["inlets"] == (["NixlInlet"] if mixed else ["NixlInlet", "NixlInlet"])
