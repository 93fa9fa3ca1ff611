"""Asks the daemon: over `run_dir/daemon.sock` on its own host. Standard library only, so that asking stays quick."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from slurmext.errors import SlurmextError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class DaemonUnavailableError(SlurmextError):
    """slurmextd does not answer; start it with `systemctl start slurmextd`."""


class QueryClient:
    """One connection per question."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self._path, self._timeout_s = path, timeout_s

    def ask(self, op: str, **arguments: object) -> dict[str, Any]:
        """The daemon's answer. Raises DaemonUnavailableError, or what the daemon said (UsageError, SlurmextError)."""
        line = self._exchange(json.dumps(question(op, arguments)).encode() + b"\n")
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise DaemonUnavailableError(f"slurmextd broke off in the middle of an answer on {self._path}") from error
        return answer_in(reply)

    def _exchange(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self._timeout_s)
            try:
                connection.connect(str(self._path))
                connection.sendall(request)
                with connection.makefile("rb") as reader:
                    return reader.readline()
            except TimeoutError as error:
                raise DaemonUnavailableError(
                    f"slurmextd did not answer on {self._path} within {self._timeout_s:g} s"
                ) from error
            except OSError as error:
                raise DaemonUnavailableError(
                    f"slurmextd does not answer on {self._path} ({error.strerror or error});"
                    " is it running? 'systemctl status slurmextd'"
                ) from error


def question(op: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """A question as it is sent; arguments that are None are left out."""
    return {"op": op, "args": {key: value for key, value in arguments.items() if value is not None}}


def answer_in(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The answer in a reply. Raises what the daemon said as UsageError or SlurmextError."""
    if reply.get("ok"):
        return reply["answer"]
    message = str(reply.get("error", "the daemon gave no reason"))
    raise UsageError(message) if reply.get("usage") else SlurmextError(message)
