"""What passes over a link after the handshake.

The receiver sends lines of JSON: {"open": fingerprint, "cap_bps": …} or {"manifest": fingerprint}, then
{"want": [[0, 8], …]} and {"drop": [[4, 8], …]}. The sender sends frames: a head of 16 bytes, and what belongs to it.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from slurmext.staging.manifest import Manifest
from slurmext.staging.transport import LinkLost, Request, Run

HEAD: Final = struct.Struct("<4sIII")
DATA: Final = b"DATA"
"""First chunk, how many, and how many more are due. Their bytes follow."""
BEAT: Final = b"BEAT"
"""How many chunks the sender has."""
KEEP: Final = b"KEEP"
"""Nothing to say but that the sender is at work: a write over another way takes long."""
TEXT: Final = b"TEXT"
"""0 or 1 for a refusal; bytes of JSON or of a manifest that follow."""
MOST_RUN: Final = 8
MOST_AWAITED: Final = 256 * 1024
MOST_TEXT: Final = 1 << 28
MOST_RANGES: Final = 4096
SILENCE_S: Final = 3.0
"""A sender that says nothing for so long is taken for dead; it beats three times in that."""
STUCK_S: Final = 15.0
"""A receiver that takes nothing for so long is taken for dead."""


def ranges_of(chunks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending chunks as ranges [begin, end)."""
    begin = end = -1
    for index in chunks:
        if index != end:
            if end > begin:
                yield begin, end
            begin = index
        end = index + 1
    if end > begin:
        yield begin, end


def requests_for(chunks: Sequence[int], *, drop: bool) -> Iterator[Mapping[str, Any]]:
    """The lines that ask for chunks, each short enough."""
    ranges = list(ranges_of(sorted(chunks)))
    for at in range(0, len(ranges), MOST_RANGES):
        yield {"drop" if drop else "want": ranges[at : at + MOST_RANGES]}


def parse_request(said: Mapping[str, Any], count: int) -> Request:
    """What a receiver asks for of a model of `count` chunks. Raises LinkLost."""
    drop = "drop" in said
    ranges = said.get("drop" if drop else "want")
    if not isinstance(ranges, list) or len(ranges) > MOST_RANGES:
        raise LinkLost(f"no request: {str(dict(said))[:100]}")
    pairs = tuple((pair[0], pair[1]) for pair in ranges if isinstance(pair, list) and len(pair) == 2)  # noqa: PLR2004
    good = all(isinstance(begin, int) and isinstance(end, int) and 0 <= begin < end <= count for begin, end in pairs)
    if len(pairs) != len(ranges) or not good:
        raise LinkLost(f"a request beyond the model's {count} chunks")
    return Request(pairs, drop)


def checked_run(first: int, count: int, due: int, manifest: Manifest) -> Run:
    """The run of a head, if it is one of this model's. Raises LinkLost."""
    if not 0 < count <= MOST_RUN or first + count > manifest.chunk_count:
        raise LinkLost(f"a run of {count} chunks from {first} is not of this model")
    return Run(first, count, due)


def set_timeouts(connection: socket.socket, *, receive_s: float, send_s: float) -> None:
    """Blocking calls that end: sendfile(2) works on a blocking socket only, which Python's own timeouts take away."""
    connection.settimeout(None)
    for option, limit_s in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(limit_s), int(limit_s % 1 * 1e6)))


class Filling:
    """Receives exactly as much as fits, woken once for a piece: for every packet would be most of the work."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._awaited = 0
        self._watch = select.poll()
        self._watch.register(connection, select.POLLIN)

    def fill(self, place: memoryview, *, silence_s: float = SILENCE_S) -> None:
        """Have it full. Raises LinkLost, also when nothing at all comes for `silence_s`."""
        done, size, awaited = 0, len(place), False
        try:
            while done < size:
                try:
                    count = self._connection.recv_into(place[done:], size - done, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    if awaited:
                        raise LinkLost(f"it was silent for {silence_s:g} s") from None
                    self._await(min(size - done, MOST_AWAITED), silence_s)
                    awaited = True
                    continue
                if not count:
                    raise LinkLost("it closed the connection")
                done += count
                awaited = False
        except OSError as error:
            raise LinkLost(str(error)) from error

    def _await(self, count: int, silence_s: float) -> None:
        if count != self._awaited:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._awaited = count
        self._watch.poll(silence_s * 1000)


def fill_exactly(connection: socket.socket, place: memoryview, *, silence_s: float = SILENCE_S) -> None:
    """Receive exactly as much as fits. Raises LinkLost, also when nothing at all comes for `silence_s`."""
    Filling(connection).fill(place, silence_s=silence_s)
    # Whoever waits for this connection next may be content with less.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
