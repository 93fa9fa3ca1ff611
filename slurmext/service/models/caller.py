"""Who asks about models, and with which arguments."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import cast

from slurmext.errors import UsageError
from slurmext.model.staged_model import ModelEntry

_LONGEST = 4096
_MOST_TEXTS = 10_000
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A user and the groups he is in (name -> number), as the kernel or munge and the user database say.

    `sees_all`: root or SlurmUser.
    """

    uid: int
    user: str
    groups: Mapping[str, int] = field(default_factory=dict[str, int])
    sees_all: bool = False

    @property
    def gids(self) -> Collection[int]:
        """Numbers of the groups."""
        return self.groups.values()

    @property
    def reads_as(self) -> int:
        """The number that may read what he may: root's for those who see everything."""
        return 0 if self.sees_all else self.uid

    def may_read(self, entry: ModelEntry) -> bool:
        """Whether the model exists for him."""
        return entry.readable_by(self.reads_as, self.gids)

    def may_change(self, entry: ModelEntry) -> bool:
        """Whether he is its owner, root or SlurmUser."""
        return self.sees_all or self.uid == entry.uid


class Arguments:
    """A request's arguments, checked as they are taken. Raises UsageError."""

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = dict(given)

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.maybe_text(name)
        if value is None:
            raise UsageError(f"the argument {name} is missing")
        return value

    def maybe_text(self, name: str) -> str | None:
        """A text, or None. Printable: it ends up in tables and logs."""
        value = self._given.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value.isprintable() or len(value) > _LONGEST:
            raise UsageError(f"{name}={str(value)[:80]!r}: a printable text of at most {_LONGEST} letters")
        return value

    def number(self, name: str, default: int = 0) -> int:
        """A whole number, not negative."""
        value = self._given.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{name}={str(value)[:80]!r}: a whole number")
        return value

    def flag(self, name: str) -> bool:
        """True when it was given as true."""
        return self._given.get(name) is True

    def texts(self, name: str) -> tuple[str, ...]:
        """Texts; none when it was not given."""
        listed = cast("list[object]", self._given.get(name) or [])
        if (
            type(listed) is not list
            or len(listed) > _MOST_TEXTS
            or not all(isinstance(each, str) and len(each) <= _LONGEST_NAME for each in listed)
        ):
            raise UsageError(f"{name}: a list of names")
        return tuple(str(each) for each in listed)

    def content(self, name: str) -> bytes:
        """Bytes, sent as base64."""
        value = self._given.get(name)
        try:
            return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
        except binascii.Error as error:
            raise UsageError(f"{name}: no base64") from error
