"""What the agent knows of slices, as values: reservations, instances it made, what each GPU is for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from slurmext.adapters.tcp.orders import SliceItem
from slurmext.model.mig import MigInstance
from slurmext.model.slicing import GpuUse

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stage(StrEnum):
    """How far a reservation is. MISSED: its job's tasks do not start here, the controller requeues it."""

    RESERVED = "reserved"
    MAKING = "making"
    LIVE = "live"
    MISSED = "missed"
    FREEING = "freeing"


class Piece(StrEnum):
    """How far an instance is. CREATING and DESTROYING are intents: they are written before the driver is asked."""

    CREATING = "creating"
    BUSY = "busy"
    WARM = "warm"
    DESTROYING = "destroying"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Slices that a job gets here. `began_s` is when its prolog came; times are Unix seconds. `asked` is for its tasks:
    the variables of the options that ask for them.
    """

    reservation: str
    job_id: int
    job: str
    uid: int
    items: tuple[SliceItem, ...]
    restarts: int | None
    stage: Stage
    at_s: float
    began_s: float | None = None
    why: str = ""
    asked: Mapping[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "items": [asdict(item) for item in self.items]
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Reservation:
        """As it was written down. Raises TypeError, ValueError, KeyError."""
        items = tuple(SliceItem(**item) for item in record["items"])
        return cls(**{**_known(cls, record), "items": items, "stage": Stage(record["stage"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A MIG instance that we made or are about to make. `gi` -1 and `uuid` "": not known yet.

    `others` are the GPU instances that were there before: whatever of them stands at this place is not ours.
    """

    gpu: str
    profile: str
    start: int
    piece: Piece
    at_s: float
    reservation: str = ""
    gi: int = -1
    ci: int | None = None
    profile_id: int = 0
    uuid: str = ""
    others: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[str, int]:
        """No two instances of ours have the same."""
        return self.gpu, self.start

    @property
    def instance(self) -> MigInstance:
        """As the driver knows it."""
        return MigInstance(gpu=self.gpu, profile=self.profile, profile_id=self.profile_id, start=self.start, gi=self.gi,
                           ci=self.ci, uuid=self.uuid)  # fmt: skip

    def is_at(self, instance: MigInstance) -> bool:
        """Whether that instance has this one's place and shape."""
        return (instance.gpu, instance.start, instance.profile) == (self.gpu, self.start, self.profile)

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"others": list(self.others)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Made:
        """As it was written down. Raises TypeError, ValueError, KeyError."""
        known = _known(cls, record)
        return cls(**{**known, "piece": Piece(record["piece"]), "others": tuple(record.get("others", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMade:
    """An MPS share: a control daemon of its own, with its files in the folder called `key`, which nobody can guess.

    `number` counts the reservation's items. `pid` and `ticks` (when it started, as /proc shows it) name the daemon for
    ever; 0 before it was started.
    """

    key: str
    gpu: str
    share_pct: int
    memory_mib: int
    uid: int
    reservation: str
    number: int
    piece: Piece
    at_s: float
    pid: int = 0
    ticks: str = ""

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ShareMade:
        """As it was written down. Raises TypeError, ValueError, KeyError."""
        return cls(**{**_known(cls, record), "piece": Piece(record["piece"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a GPU is for. `switched`: its MIG mode is our doing, and is undone when it is given back."""

    gpu: str
    use: GpuUse
    switched: bool = False

    def record(self) -> dict[str, Any]:
        """As it is written down."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Use:
        """As it was written down. Raises TypeError, ValueError, KeyError."""
        return cls(**{**_known(cls, record), "use": GpuUse(record["use"])})


def _known(cls: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """A later version's fields are left out."""
    names = {field.name for field in fields(cls)}
    return {key: value for key, value in record.items() if key in names}
