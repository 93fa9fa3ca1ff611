"""One request to the node's agent, over its unix socket: a line, with open files if need be; a line comes back.

An agent answers a few processes of a user at a time and hangs up on the others: those ask again, and nobody hears of
it. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONNECT_S = 2.0
MOST_FILES = 64
"""Descriptors in one message; the kernel takes 253 (unix(7), SCM_MAX_FD)."""
_MOST_BYTES = 1 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


class CrowdedError(OSError):
    """The agent has enough to do with other processes of this user."""


def known() -> tuple[str, int] | None:
    """The agent's address and this job's number; None where there is no agent to ask."""
    address, job = os.environ.get("SLURMEXT_AGENT_SOCKET", ""), os.environ.get("SLURM_JOB_ID", "")
    return (address, int(job)) if address and job.isdecimal() else None


def out_of_sight(address: str) -> bool:
    """Whether not even the directory of its socket is there, as in a container that does not have it mounted."""
    return not Path(address).parent.is_dir()


def ask(
    address: str,
    request: Mapping[str, Any],
    descriptors: Sequence[int] = (),
    *,
    patience_s: float,
    insist: bool = False,
) -> tuple[dict[str, Any], list[int]]:
    """The reply and the descriptors that came with it, which are the caller's to close.

    Asks again for `patience_s` seconds while the agent is crowded, with `insist` also while there is none, for it may
    be starting anew. Raises OSError and ValueError.
    """
    again = (CrowdedError, ConnectionRefusedError, FileNotFoundError) if insist else (CrowdedError,)
    until_s, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            return _ask_once(address, request, descriptors)
        except again:
            if time.monotonic() + pause_s > until_s:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - not all at the same time
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _ask_once(address: str, request: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
    line = json.dumps(request).encode() + b"\n"
    handed: list[int] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(address)
            # It may have hung up already, after saying why: that is still there to be read.
            with contextlib.suppress(BrokenPipeError):
                if descriptors:
                    line = line[socket.send_fds(connection, [line], list(descriptors)) :]
                connection.sendall(line)
            answer = _answer(connection, handed)
            reply = json.loads(answer)
            if not isinstance(reply, dict):
                raise ValueError(f"the agent said {answer[:60]!r}")  # noqa: TRY301, TRY004 - as for what is no JSON
            if reply.get("crowded") is True:
                raise CrowdedError("the agent is busy with other processes of yours")  # noqa: TRY301
        except BlockingIOError as error:
            raise CrowdedError("the agent takes no more connections") from error
        except BaseException:
            _close(handed)
            raise
        return reply, handed


def _answer(connection: socket.socket, handed: list[int]) -> bytes:
    answer = b""
    while not answer.endswith(b"\n"):
        chunk, fresh, _, _ = socket.recv_fds(connection, 65536, MOST_FILES)
        handed += fresh
        if not chunk:
            raise ConnectionError("the agent hung up")
        answer += chunk
        if len(answer) > _MOST_BYTES:
            raise ValueError("the agent says too much")
    return answer


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
