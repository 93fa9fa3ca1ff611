"""Free TCP ports and address ranges, claimed so that clusters booted at the same moment do not collide."""

from __future__ import annotations

import fcntl
import json
import random
import socket
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster.errors import DevclusterError
from slurmext.devcluster.spec import BASE

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOW: Final = 20000
_HIGH: Final = 32000  # below Linux' ephemeral ports, so that no outgoing connection takes one between claim and use


@contextmanager
def claiming() -> Iterator[None]:
    """Held from the choice of ports and addresses until they stand in the cluster's record."""
    BASE.mkdir(parents=True, exist_ok=True)
    with (BASE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_ports(count: int) -> list[int]:
    """`count` ports nobody listens on and no other cluster has claimed. Raises DevclusterError."""
    taken = {port for record in records() for port in record.get("ports", {}).values()}
    # A random start: clusters outside the base directory are not seen in `taken`.
    start = random.randrange(_LOW, _HIGH)  # noqa: S311
    found: list[int] = []
    for offset in range(_HIGH - _LOW):
        port = _LOW + (start - _LOW + offset) % (_HIGH - _LOW)
        if port not in taken and _free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise DevclusterError(f"no {count} free TCP ports between {_LOW} and {_HIGH}")


def subnet(third: int) -> str:
    """The first three numbers of the addresses behind the bridge `sxTHIRD`."""
    return f"198.18.{third}"


def free_subnet() -> str:
    """The first three numbers of an unused /24 of 198.18.0.0/15, the range set aside for tests (RFC 2544)."""
    taken = {record.get("subnet") for record in records()}
    routes = Path("/proc/net/route").read_text(encoding="ascii")
    for third in range(1, 255):
        found = subnet(third)
        hexadecimal = f"00{third:02X}12C6"  # little-endian network address
        if found not in taken and hexadecimal not in routes:
            return found
    raise DevclusterError("every /24 of 198.18.0.0/16 is in use: take other clusters with --netns down")


def records() -> list[dict[str, dict[str, int]]]:
    """The records of the clusters in the base directory."""
    found: list[dict[str, dict[str, int]]] = []
    for path in BASE.glob("*/cluster.json"):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):  # being removed or written right now
            continue
    return found


def _free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
