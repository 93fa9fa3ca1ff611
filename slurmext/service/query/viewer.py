"""Who asks, and what: checked arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slurmext.errors import UsageError

Answer = dict[str, object]
MOST_ROWS = 100_000
"""No answer has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who asks. One who does not see everything is shown only what belongs to `user`."""

    user: str
    groups: frozenset[str] = frozenset()
    sees_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, with checked arguments."""

    job: str | None = None
    queue: str | None = None
    state: str | None = None
    user: str | None = None
    kind: str | None = None
    since_s: float | None = None
    version: int | None = None
    ended: bool = False
    limit: int = 1000
    for_s: float | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, object]) -> Question:
        """From the arguments of a request. Raises UsageError on one that is unknown or of the wrong type."""
        texts: dict[str, str] = {}
        numbers: dict[str, float] = {}
        for key, value in arguments.items():
            if value is None:
                continue
            if key in {"job", "queue", "state", "user", "kind"} and isinstance(value, str):
                texts[key] = value
            elif key in {"since_s", "limit", "ended", "version", "for_s"} and isinstance(value, int | float):
                numbers[key] = value
            else:
                raise UsageError(
                    f"the argument {key}={value!r} is not understood; the daemon may be of another version"
                )
        return cls(
            **texts,
            since_s=numbers.get("since_s"),
            version=int(numbers["version"]) if "version" in numbers else None,
            ended=bool(numbers.get("ended")),
            for_s=numbers.get("for_s"),
            limit=max(1, min(int(numbers.get("limit", 1000)), MOST_ROWS)),
        )


def whose(viewer: Viewer, asked: Question) -> str | None:
    """The user whose things are asked for, None: everybody's. Raises UsageError where the viewer may not see them."""
    if viewer.sees_all:
        return asked.user
    if asked.user not in {None, viewer.user}:
        raise UsageError(f"only root and SlurmUser see what is {asked.user}'s; without --user you see your own")
    return viewer.user


def require_all(viewer: Viewer) -> None:
    """Raises UsageError for one who does not see everything."""
    if not viewer.sees_all:
        raise UsageError(
            "the policy's text is shown to root and SlurmUser only; 'slurmext queue list' shows the queues"
        )
