"""The staging engine alone, without Slurm or controller, for tests and benchmarks.

`python -m slurmext.agent.staging.solo` listens for peers and takes requests on a unix socket
(see `control`). Prints `ready HOST:PORT`.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import click

from slurmext.adapters.munge_library import find_munge
from slurmext.adapters.transport.handshake import Identity
from slurmext.adapters.transport.select import make_transport
from slurmext.agent.server import UnixServer
from slurmext.agent.staging.control import answer
from slurmext.agent.staging.engine import StagingEngine
from slurmext.staging.store.tier import Tier, TierKind


@click.command()
@click.option("--node", required=True)
@click.option("--listen", default="127.0.0.1:0", show_default=True)
@click.option("--control", required=True, type=click.Path(path_type=Path))
@click.option("--memory", required=True, type=click.Path(path_type=Path))
@click.option("--disk", type=click.Path(path_type=Path))
@click.option("--mib", default=4096, show_default=True, help="Room in each tier.")
@click.option("--spare-mib", default=0, show_default=True)
@click.option("--munge-socket", type=click.Path(path_type=Path))
@click.option("--transport", default="sockets", show_default=True)
@click.option("--tx-cap-mbps", type=float)
def main(
    node: str, listen: str, control: Path, memory: Path, disk: Path | None, mib: int, spare_mib: int,
    munge_socket: Path | None, transport: str, tx_cap_mbps: float | None,
) -> None:  # fmt: skip
    """Serve until TERM."""
    logging.basicConfig(level=os.environ.get("LOG", "INFO"), format="%(asctime)s %(message)s")
    identity = Identity(node=node, prover=find_munge(socket=munge_socket), trusted_uids={0, os.geteuid()})
    room, spare = mib << 20, spare_mib << 20
    tiers = {TierKind.MEMORY: Tier(memory, TierKind.MEMORY, capacity_bytes=room, spare_bytes=spare)}
    if disk is not None:
        tiers[TierKind.DISK] = Tier(disk, TierKind.DISK, capacity_bytes=room)
    engine = StagingEngine(
        tiers, make_transport(transport, listen, identity), tx_cap_bps=tx_cap_mbps * 1e6 if tx_cap_mbps else None
    )
    engine.start()
    server = UnixServer(control, mode=0o600, answer=lambda _peer, request: answer(engine, request))
    server.start()
    host, port = engine.address
    print(f"ready {host}:{port}", flush=True)  # noqa: T201
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop()
    engine.stop()
    # A process that made a NIXL agent may crash while the interpreter takes it apart.
    os._exit(0)


if __name__ == "__main__":
    main()
