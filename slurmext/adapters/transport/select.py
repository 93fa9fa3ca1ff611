"""Which transport a node uses: what the site asks for, as far as this machine has it."""

from __future__ import annotations

import logging
from typing import Final

from slurmext.adapters.transport.handshake import Identity
from slurmext.adapters.transport.nixl import NixlTransport, NoNixl
from slurmext.adapters.transport.sockets import SocketTransport
from slurmext.errors import SlurmextError
from slurmext.staging.transport import Transport

log = logging.getLogger(__name__)

NAMES: Final = ("sockets", "nixl", "auto")


def make_transport(name: str, listen: str, identity: Identity) -> Transport:
    """The transport of this name; `auto` is NIXL where it can be used, else sockets. Raises SlurmextError."""
    if name in {"nixl", "auto"}:
        try:
            return NixlTransport(listen, identity)
        except NoNixl as error:
            if name == "nixl":
                raise
            log.info("%s", error)
            name = "sockets"
    if name == "sockets":
        return SocketTransport(listen, identity)
    raise SlurmextError(f"no transport {name!r}: one of {', '.join(NAMES)}")
