"""Which transport a node uses: what the site asks for, as far as this machine has it."""

from __future__ import annotations

from typing import Final

from slurmext.adapters.transport.handshake import Identity
from slurmext.adapters.transport.sockets import SocketTransport
from slurmext.errors import SlurmextError
from slurmext.staging.transport import Transport

NAMES: Final = ("sockets",)


def make_transport(name: str, listen: str, identity: Identity) -> Transport:
    """The transport of this name. Raises SlurmextError."""
    if name == "sockets":
        return SocketTransport(listen, identity)
    raise SlurmextError(f"no transport {name!r}: one of {', '.join(NAMES)}")
