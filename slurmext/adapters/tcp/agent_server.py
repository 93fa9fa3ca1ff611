"""The controller's end of the agents' connections: proves who they are, hands over events, acknowledges them."""

from __future__ import annotations

import contextlib
import functools
import hmac
import json
import logging
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmext.adapters.munge import MungeAuth, MungeError
from slurmext.adapters.tcp.clocks import NodeClock
from slurmext.adapters.tcp.orders import Order
from slurmext.adapters.tcp.queries import OnQuery, serve_query
from slurmext.adapters.tcp.wire import (
    HANDSHAKE_S,
    MAX_LINE_BYTES,
    NODE,
    NONCE,
    VERSION,
    AgentEvent,
    Lines,
    WireError,
    agent_payload,
    keep_alive,
    parse_event,
    server_payload,
    split_address,
)
from slurmext.adapters.transport.framing import set_timeouts
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

log = logging.getLogger(__name__)

MAX_STRANGERS = 64
"""Connections that have not proved who they are; more are turned away, so that strangers cannot use up threads."""
SEND_S = 5.0
"""An agent that reads nothing for so long, with its buffers full, is hung up on: cycles must not wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedAgent:
    """An agent that is connected now. Times are Unix seconds."""

    node: str
    address: str
    since_s: float


class AgentServer:
    """Listens for agents. An event is acknowledged only after `on_event` returned, so what it stored is never lost.

    `on_event` is called from one thread per agent; when it raises, the connection is closed and the agent sends the
    event again later. Only agents whose munge credential has one of `allowed_uids` are heard. Questions of any user on
    another host go to `on_query` with the uid that munge vouches for. `failures` goes with each acknowledgement: what
    the site knows of its failures, for the jobs' checkpoint intervals.
    """

    def __init__(
        self,
        listen: str,
        munge: MungeAuth,
        allowed_uids: Collection[int],
        on_event: Callable[[AgentEvent], None],
        on_query: OnQuery | None = None,
        failures: Callable[[], str] = str,
    ) -> None:
        self._munge = munge
        self._allowed = frozenset(allowed_uids)
        self._on_event = on_event
        self._on_query = on_query
        self._failures = failures
        self._lock = threading.Lock()
        self._agents: dict[int, ConnectedAgent] = {}
        self._open: dict[int, socket.socket] = {}
        self._lines: dict[int, Lines] = {}
        self._strangers = threading.BoundedSemaphore(MAX_STRANGERS)
        self._stopping = False
        self._address = split_address(listen)
        self._listener = socket.socket()
        self._thread = threading.Thread(target=self._accept, name="agents", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port in use once started (of interest when 0 was asked for)."""
        return self._listener.getsockname()[1]

    def start(self) -> None:
        """Listen, and accept agents in the background. Raises SlurmextError.

        Not before: a daemon that only waits for its turn must leave the port to the one that is active.
        """
        host, port = self._address
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            raise SlurmextError(
                f"cannot listen on {host}:{port} for agents: {error.strerror} (daemon.listen)"
            ) from error
        self._thread.start()

    def stop(self) -> None:
        """Close every connection; events not acknowledged come again when agents reconnect."""
        self._stopping = True
        with self._lock:
            connections = [self._listener, *self._open.values()]
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def connected(self) -> list[ConnectedAgent]:
        """Agents connected now, by node; the newest connection of each."""
        with self._lock:
            agents = sorted(self._agents.values(), key=lambda agent: (agent.node, agent.since_s))
        return list({agent.node: agent for agent in agents}.values())

    def order(self, nodes: Collection[str], order: Order) -> list[str]:
        """Tell the agents of these nodes; returns the nodes whose agent was told. Who is away is not told later."""
        line = json.dumps(order.line()).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            # The agent would hang up, and again each time it is told.
            log.error("%d bytes are too long an order: %.200s", len(line), line)
            return []
        with self._lock:
            newest = {agent.node: key for key, agent in self._agents.items() if agent.node in nodes}
            there = [(node, self._lines[key], self._open[key]) for node, key in newest.items() if key in self._lines]
        told = list[str]()
        for node, lines, connection in there:
            try:
                lines.send(line)
            except OSError as error:
                log.warning("agent of %s was not told %.200s: %s", node, line, error)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # it may have got a part of the line
            else:
                told.append(node)
        return sorted(told)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                log.warning("agents: accept: %s", error)
                time.sleep(0.1)  # out of descriptors: the listener stays readable
                continue
            if not self._strangers.acquire(blocking=False):
                connection.close()
                continue
            name = f"agent-{address[0]}:{address[1]}"
            threading.Thread(target=self._serve, args=(connection, name), name=name, daemon=True).start()

    def _serve(self, connection: socket.socket, name: str) -> None:
        key = id(connection)
        node = "?"
        with self._lock:
            self._open[key] = connection
        try:
            with connection:
                try:
                    keep_alive(connection)
                    connection.settimeout(HANDSHAKE_S)
                    lines = Lines(connection)
                    agent = self._handshake(lines)
                finally:
                    self._strangers.release()
                if agent is None:
                    return
                node = agent
                set_timeouts(connection, receive_s=0, send_s=SEND_S)
                with self._lock:
                    self._agents[key] = ConnectedAgent(node=node, address=name, since_s=time.time())
                    self._lines[key] = lines
                log.info("agent of %s connected (%s)", node, name)
                self._events(lines, node)
        except (MungeError, WireError) as error:
            log.warning("%s (node %s): %s", name, node, error)
        except OSError as error:
            if not self._stopping:
                log.info("%s (node %s): %s", name, node, error)
        except SlurmextError as error:
            log.warning("event of node %s was not taken, the agent will send it again: %s", node, error)
        except Exception:
            log.exception("event of node %s was not taken; the agent will send it again", node)
        finally:
            with self._lock:
                self._open.pop(key, None)
                self._lines.pop(key, None)
                if self._agents.pop(key, None) and not self._stopping:
                    log.info("agent of %s disconnected", node)

    def _handshake(self, lines: Lines) -> str | None:
        """The agent's node; None when it was a question, which is answered then."""
        nonce = secrets.token_hex(16)
        lines.send({"slurmext": VERSION, "nonce": nonce})
        answer = lines.greeting(HANDSHAKE_S)
        node, theirs, credential = (str(answer.get(key, "")) for key in ("node", "nonce", "credential"))
        try:
            if "query" in answer and self._on_query is not None:
                serve_query(lines, answer, nonce, self._munge, self._on_query)
                return None
            if not NODE.fullmatch(node) or not NONCE.fullmatch(theirs) or not credential.startswith("MUNGE:"):
                raise WireError("is not an agent")
            proof = self._munge.decode(credential)
            if proof.uid not in self._allowed:
                raise WireError(f"uid {proof.uid} is neither root nor SlurmUser")
            if not hmac.compare_digest(proof.payload, agent_payload(node, nonce, theirs)):
                raise WireError("the credential is for another connection or node")
        except SlurmextError as error:
            with contextlib.suppress(OSError):
                lines.send({"ok": False, "error": str(error)})
            raise
        lines.send({"ok": True, "credential": self._munge.encode(server_payload(node, nonce, theirs))})
        return node

    def _events(self, lines: Lines, node: str) -> None:
        clock = NodeClock()
        while (message := lines.receive()) is not None:
            seq, now_s = message.get("seq"), time.time()
            try:
                event = parse_event(message, node, functools.partial(clock.behind_s, now_s=now_s))
            except WireError as error:
                # Asking for it again would bring the same line for ever and hold up those behind it.
                log.warning("%s", error)
            else:
                self._on_event(event)
            lines.send({"ack": seq, "failures": self._failures()})
