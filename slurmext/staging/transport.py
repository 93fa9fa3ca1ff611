"""The port between the transfer engine and what moves bytes: sockets, or RDMA.

A receiver opens a link to a peer, both prove who they are, the receiver says what it wants, and from then on the
sender pushes runs of chunks into the receiver's staged files and says where it put them. Whatever arrives is checked
before it counts. Adapters implement this in `slurmext.adapters.transport`; the engine is in `slurmext.agent.staging`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from slurmext.staging.errors import StagingError
from slurmext.staging.store.staged import StagedModel


class LinkLost(StagingError):
    """The peer is gone, refused or broke the protocol; the next one is tried."""


class Refused(StagingError):
    """A peer that did not prove who it is, or asked for what it may not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An agent that serves: its node and HOST:PORT."""

    node: str
    address: str


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks [first, first + count) of one file, one after the other; `due` more the sender has for this receiver."""

    first: int
    count: int
    due: int = 0


Claim = Callable[[Run], bool]
"""Has a run of chunks reserved for one link, or says that it is not: they are good, or another link brings them."""


@dataclass(frozen=True, slots=True)
class Request:
    """Chunks a receiver wants, or with `drop` wants no more, as ranges [begin, end)."""

    ranges: tuple[tuple[int, int], ...]
    drop: bool


class Inlet(Protocol):
    """The receiver's end of a link. Every method raises LinkLost."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        ...

    def want(self, chunks: Sequence[int], *, drop: bool = False) -> None:
        """Ask for chunks, whenever the sender has them; with `drop`, for these no more. From any thread."""
        ...

    def receive(self) -> Run | int:
        """The next run that the sender pushes, or, as a sign of life, how many chunks the sender has."""
        ...

    def fill(self, index: int, place: memoryview | None) -> None:
        """Have the bytes of the run's next chunk at `place` (None: throw them away). To be called for each in order."""
        ...

    def stop(self) -> None:
        """Have `receive` and `fill` raise LinkLost in the thread that is in them. From any thread."""
        ...

    def close(self) -> None:
        """Let go of it; only from the thread that receives."""
        ...


class Outlet(Protocol):
    """The sender's end of a link. Every method raises LinkLost."""

    @property
    def node(self) -> str:
        """Who is at the other end."""
        ...

    def requests(self) -> Request | None:
        """What the receiver asks for next; None at the end. A thread of its own waits here."""
        ...

    def push(self, run: Run) -> None:
        """Send a run."""
        ...

    def beat(self, ready: int) -> None:
        """A sign of life: how many chunks are here."""
        ...

    def pace(self, rate_bps: float | None) -> None:
        """Send no faster than this (None: as the receiver asked, or as fast as the link)."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Transport(Protocol):
    """Makes links. `serve` calls its callbacks from a thread for each link, after the peer has proved who it is."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        ...

    def serve(
        self,
        find: Callable[[str, str], StagedModel | None],
        on_link: Callable[[Outlet, StagedModel], None],
        manifest_of: Callable[[str], bytes | None],
    ) -> None:
        """Accept links in the background.

        `find(node, fingerprint)` gives the model that this node may have, `manifest_of(fingerprint)` its manifest.
        """
        ...

    def connect(self, peer: Peer, staged: StagedModel, *, cap_bps: float | None = None) -> Inlet:
        """A link to a peer that has (or is receiving) the model. Raises LinkLost, Refused."""
        ...

    def fetch_manifest(self, peer: Peer, fingerprint: str) -> bytes:
        """The manifest from a peer; the caller checks it. Raises LinkLost, Refused."""
        ...

    def stop(self) -> None:
        """Accept nothing more and end every link."""
        ...
