"""Carries spooled events to the controller, in order, each until it is acknowledged."""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import tenacity

from slurmext.adapters.tcp.orders import Order, parse_order
from slurmext.adapters.tcp.wire import (
    HANDSHAKE_S,
    NONCE,
    VERSION,
    Lines,
    WireError,
    agent_payload,
    keep_alive,
    sent,
    server_payload,
    split_address,
)
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from slurmext.adapters.munge import MungeAuth
    from slurmext.agent.spool import EventSpool

log = logging.getLogger(__name__)

ACK_S = 60.0
"""The controller stores an event before it acknowledges it, and its database may be slow or locked for a while."""
BACKOFF_MAX_S = 10.0


class Forwarder:
    """A thread that stays connected to the controller at `address` (host:port)."""

    def __init__(
        self,
        spool: EventSpool,
        *,
        node: str,
        address: str,
        munge: MungeAuth,
        controller_uids: Collection[int],
        hello: Callable[[], Mapping[str, object]] = dict,
        on_order: Callable[[Order], None] = lambda _order: None,
        on_failures: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._spool = spool
        self._node = node
        self._address = address
        self._munge = munge
        self._controller_uids = frozenset(controller_uids)
        self._hello = hello
        self._on_order = on_order
        self._on_failures, self._failures = on_failures, ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self.connected_since_s: float | None = None
        """Unix seconds since when the controller hears us, None while it does not."""

    def start(self) -> None:
        """Connect in the background, for as long as it takes."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Stop; what was not acknowledged stays in the spool."""
        self._stop.set()
        os.eventfd_write(self._spool.wake, 1)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            retry = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type((OSError, SlurmextError)),
                wait=tenacity.wait_random_exponential(multiplier=0.2, max=BACKOFF_MAX_S),
                stop=tenacity.stop_when_event_set(self._stop),
                sleep=tenacity.sleep_using_event(self._stop),
                before_sleep=self._note,
            )
            try:
                connection, lines = retry(self._connect)
            except tenacity.RetryError:
                return
            try:
                self._talk(connection, lines)
            except (OSError, SlurmextError) as error:
                log.info("controller %s: %s", self._address, error)
            except Exception:
                log.exception("forwarding to %s", self._address)
                self._stop.wait(BACKOFF_MAX_S)
            finally:
                self.connected_since_s = None
                connection.close()
            self._stop.wait(0.2)  # a controller that accepts and closes must not be called in a tight loop

    def _note(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        level = logging.WARNING if state.attempt_number == 1 else logging.DEBUG
        log.log(level, "controller %s: %s; %d events wait here", self._address, error, len(self._spool))

    def _connect(self) -> tuple[socket.socket, Lines]:
        connection = socket.create_connection(split_address(self._address), timeout=HANDSHAKE_S)
        try:
            keep_alive(connection)
            lines = Lines(connection)
            self._handshake(lines)
        except BaseException:
            connection.close()
            raise
        connection.settimeout(ACK_S)
        return connection, lines

    def _handshake(self, lines: Lines) -> None:
        theirs = str((lines.receive() or {}).get("nonce", ""))
        if not NONCE.fullmatch(theirs):
            raise WireError(f"{self._address} is not a slurmext controller (version {VERSION})")
        nonce = secrets.token_hex(16)
        credential = self._munge.encode(agent_payload(self._node, theirs, nonce))
        lines.send({"node": self._node, "nonce": nonce, "credential": credential})
        answer = lines.receive() or {}
        if answer.get("ok") is not True:
            raise WireError(f"the controller refused this agent: {answer.get('error', 'no answer')}")
        proof = self._munge.decode(str(answer.get("credential", "")))
        if proof.uid not in self._controller_uids:
            raise WireError(f"what answers at {self._address} runs as uid {proof.uid}, not as root or SlurmUser")
        if not hmac.compare_digest(proof.payload, server_payload(self._node, theirs, nonce)):
            raise WireError(f"what answers at {self._address} proved itself for another connection")

    def _talk(self, connection: socket.socket, lines: Lines) -> None:
        self._deliver(lines, self._spool.greeting("hello", **self._hello()))
        self.connected_since_s = time.time()
        log.info("connected to the controller at %s", self._address)
        while not self._stop.is_set():
            if head := self._spool.head():
                name, line = head
                self._deliver(lines, line)
                self._spool.acknowledged(name)
                continue
            ready = [] if lines.waiting else select.select([connection, self._spool.wake], [], [], 30)[0]
            if lines.waiting or connection in ready:
                self._obey(_said(lines))
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._spool.wake)

    def _deliver(self, lines: Lines, line: bytes) -> None:
        lines.send(sent(line, time.time()))
        while "ack" not in (answer := _said(lines)):
            self._obey(answer)
        if f'"seq": {answer.get("ack")},'.encode() not in line[:80]:
            raise WireError(f"acknowledged {answer} instead of {line[:80]!r}")
        failures = str(answer.get("failures", ""))[:100]
        if failures and failures != self._failures:
            self._failures = failures
            with contextlib.suppress(OSError):
                self._on_failures(failures)

    def _obey(self, said: Mapping[str, object]) -> None:
        """Carry out an order; what goes wrong in it is no reason to stop forwarding."""
        order = parse_order(said)
        if order is None:
            log.warning("the controller said %.200r, which this version does not know", said)
            return
        try:
            self._on_order(order)
        except Exception:
            log.exception("the order %s was not carried out", order.line())


def _said(lines: Lines) -> dict[str, Any]:
    """The controller's next line. Raises WireError when there will be none."""
    answer = lines.receive()
    if answer is None:
        raise WireError("the controller closed the connection")
    return answer
