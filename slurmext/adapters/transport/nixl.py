"""The transport over NIXL (UCX): RDMA writes straight into the receiver's staged files. Optional.

The link's connection stays what it is with sockets: the handshake, what is wanted, signs of life; only the bytes take
another way. The receiver registers the model's files and tells the sender their keys after both have proved who they
are; the sender writes runs and notifies with the same heads that go over sockets. A peer without NIXL is spoken to over
sockets, in both directions.

Each end of a link has a NIXL agent of its own: it knows this model's memory and is used by one thread. Pushed, never
pulled (READ is half as fast over TCP); polled, since the progress thread costs more than it gives. A process that made
an agent may crash when the interpreter is taken apart: end it with os._exit.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import importlib
import json
import os
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from slurmext.adapters.tcp.wire import Lines
from slurmext.adapters.transport.framing import (
    BEAT,
    DATA,
    HEAD,
    KEEP,
    SILENCE_S,
    STUCK_S,
    checked_run,
    set_timeouts,
)
from slurmext.adapters.transport.sockets import SocketInlet, SocketOutlet, SocketTransport
from slurmext.errors import SlurmextError
from slurmext.staging.store.staged import StagedModel
from slurmext.staging.transport import Inlet, LinkLost, Outlet, Peer, Run

_MODULES: Final = ("nixl_cu12._api", "nixl_cu13._api", "nixl._api")
_IN_FLIGHT: Final = 2
_NAP_S: Final = 0.0005


class NoNixl(SlurmextError):
    """NIXL cannot be used here: pip install --no-deps nixl-cu12 (it needs NumPy, no CUDA), or use sockets."""


def load_nixl() -> Any:
    """NIXL's Python module. Raises NoNixl."""
    os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
    os.environ.setdefault("UCX_LOG_LEVEL", "error")
    problems: list[str] = []
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            problems.append(str(error))
    raise NoNixl(f"{NoNixl.__doc__} ({problems[0]})")


class _Memory:
    """A NIXL agent that knows one model's files on this node."""

    def __init__(self, nixl: Any, staged: StagedModel) -> None:
        self.agent = nixl.nixl_agent(
            f"slurmext-{secrets.token_hex(8)}", nixl.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        )
        self.staged = staged
        self._held: list[Any] = []
        self.addresses: list[int] = []
        regions: list[tuple[int, int, int, str]] = []
        for number, entry in enumerate(staged.manifest.files):
            mapping = staged.mapping(number)
            if mapping is None:
                self.addresses.append(0)
                continue
            start = ctypes.c_char.from_buffer(mapping)  # keeps the mapping as long as the agent may write to it
            self._held.append(start)
            self.addresses.append(ctypes.addressof(start))
            regions.append((self.addresses[-1], entry.size, 0, ""))
        self._registered = self.agent.register_memory(regions, "DRAM") if regions else None

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if self._registered is not None:
                self.agent.deregister_memory(self._registered)
        self._held.clear()


class NixlInlet:
    """The receiver's end: whatever is notified lies in the staged files already, and is checked there."""

    def __init__(self, connection: socket.socket, control: SocketInlet, memory: _Memory) -> None:
        self._connection = connection
        self._control = control
        self._memory = memory
        self._heads: deque[bytes] = deque()

    @property
    def peer(self) -> Peer:
        return self._control.peer

    def want(self, chunks: Sequence[int], *, drop: bool = False) -> None:
        self._control.want(chunks, drop=drop)

    def receive(self) -> Run | int:
        deadline_s = time.monotonic() + SILENCE_S
        while not self._heads:
            for heads in self._memory.agent.get_new_notifs().values():
                self._heads.extend(heads)
            if self._heads:
                break
            if select.select([self._connection], [], [], _NAP_S)[0]:
                kind, ready, _, _ = self._control.frame()
                if kind == BEAT:
                    return ready
                if kind != KEEP:
                    raise LinkLost(f"{self.peer.node} sent {kind!r}, which is no frame")
                deadline_s = time.monotonic() + SILENCE_S
            if time.monotonic() > deadline_s:
                raise LinkLost(f"it was silent for {SILENCE_S:g} s")
        head = self._heads.popleft()
        if len(head) != HEAD.size or head[:4] != DATA:
            raise LinkLost(f"{self.peer.node} notified {head[:16]!r}")
        _, first, count, due = HEAD.unpack(head)
        return checked_run(first, count, due, self._memory.staged.manifest)

    def fill(self, index: int, place: memoryview | None) -> None:
        """The bytes are there."""

    def stop(self) -> None:
        self._control.stop()

    def close(self) -> None:
        self._memory.close()
        self._control.close()


class NixlOutlet:
    """The sender's end."""

    def __init__(self, control: SocketOutlet, memory: _Memory, remote: str, places: Sequence[int]) -> None:
        self._control = control
        self._memory = memory
        self._remote = remote
        self._places = places
        self._flying: deque[Any] = deque()
        self._rate_bps: float | None = control.asked_bps
        self._free_s = 0.0

    @property
    def node(self) -> str:
        return self._control.node

    def requests(self) -> Any:
        return self._control.requests()

    def push(self, run: Run) -> None:
        manifest = self._memory.staged.manifest
        first, last = manifest.chunk(run.first), manifest.chunk(run.first + run.count - 1)
        length = last.offset + last.length - first.offset
        self._wait_turn(length)
        while len(self._flying) >= _IN_FLIGHT:
            self._land()
        agent = self._memory.agent
        try:
            here = agent.get_xfer_descs([(self._memory.addresses[first.file] + first.offset, length, 0)], "DRAM")
            there = agent.get_xfer_descs([(self._places[first.file] + first.offset, length, 0)], "DRAM")
            handle = agent.initialize_xfer(
                "WRITE", here, there, self._remote, HEAD.pack(DATA, run.first, run.count, run.due)
            )
            if agent.transfer(handle) == "ERR":
                raise LinkLost(f"{self.node}: the write was refused")  # noqa: TRY301
        except LinkLost:
            raise
        except Exception as error:  # NIXL has exceptions of its own, which are not exported everywhere
            raise LinkLost(f"{self.node}: {error}") from error
        self._flying.append(handle)

    def beat(self, ready: int) -> None:
        while self._flying:
            self._land()
        self._control.beat(ready)

    def pace(self, rate_bps: float | None) -> None:
        rates = [rate for rate in (rate_bps, self._control.asked_bps) if rate is not None]
        self._rate_bps = min(rates) if rates else None

    def close(self) -> None:
        with contextlib.suppress(LinkLost):
            while self._flying:
                self._land()
        with contextlib.suppress(Exception):
            self._memory.agent.remove_remote_agent(self._remote)
        self._memory.close()
        self._control.close()

    def _land(self) -> None:
        handle = self._flying.popleft()
        deadline_s = time.monotonic() + STUCK_S
        keep_s = time.monotonic() + SILENCE_S / 6
        try:
            while (state := self._memory.agent.check_xfer_state(handle)) == "PROC":
                now_s = time.monotonic()
                if now_s > deadline_s:
                    raise LinkLost(f"{self.node} takes nothing")  # noqa: TRY301
                if now_s > keep_s:
                    self._control.beat(0, KEEP)
                    keep_s = now_s + SILENCE_S / 6
                # Without a progress thread the write goes on only while it is looked at.
                time.sleep(0)
            self._memory.agent.release_xfer_handle(handle)
        except LinkLost:
            raise
        except Exception as error:
            raise LinkLost(f"{self.node}: {error}") from error
        if state != "DONE":
            raise LinkLost(f"{self.node}: the write ended with {state}")

    def _wait_turn(self, length: int) -> None:
        if self._rate_bps is None:
            return
        now_s = time.monotonic()
        if self._free_s > now_s:
            time.sleep(self._free_s - now_s)
        self._free_s = max(now_s, self._free_s) + length * 8 / self._rate_bps


class NixlTransport(SocketTransport):
    """Sockets, with the bytes over NIXL wherever both ends have it. Raises NoNixl."""

    def __init__(self, listen: str, identity: Any) -> None:
        self._nixl = load_nixl()
        super().__init__(listen, identity)

    def opened(
        self, connection: socket.socket, lines: Lines, peer: Peer, staged: StagedModel, question: dict[str, Any]
    ) -> Inlet:
        memory = _Memory(self._nixl, staged)
        try:
            metadata = base64.b64encode(memory.agent.get_agent_metadata()).decode()
            asked = question | {"nixl": {"metadata": metadata, "places": memory.addresses}}
            told = json.loads(self.ask(connection, lines, asked, peer) or b"{}")
            set_timeouts(connection, receive_s=SILENCE_S, send_s=STUCK_S)
            control = SocketInlet(connection, lines, peer, staged)
            if not told.get("nixl"):
                memory.close()
                return control
            return NixlInlet(connection, control, memory)
        except BaseException:
            memory.close()
            raise

    def accepted(
        self, connection: socket.socket, lines: Lines, node: str, staged: StagedModel, said: Mapping[str, Any]
    ) -> tuple[Outlet, dict[str, Any]]:
        control = SocketOutlet(connection, lines, node, staged, said.get("cap_bps"))
        given = said.get("nixl")
        if not isinstance(given, dict):
            return control, {}
        memory = _Memory(self._nixl, staged)
        try:
            remote = memory.agent.add_remote_agent(base64.b64decode(given["metadata"]))
            places = [int(place) for place in given["places"]]
            if len(places) != len(staged.manifest.files):
                raise LinkLost(f"{node} has other files")  # noqa: TRY301
        except LinkLost:
            memory.close()
            raise
        except Exception as error:
            memory.close()
            raise LinkLost(f"{node}: no NIXL agent: {error}") from error
        return NixlOutlet(control, memory, remote if isinstance(remote, str) else remote.decode(), places), {
            "nixl": True
        }
