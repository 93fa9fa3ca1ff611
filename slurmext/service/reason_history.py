"""The reasons a job waited for, kept as one short text: `BEHIND_IN_QUEUE@1800000000 RECLAIMING@1800000060`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

MOST = 24
"""So many are kept, the newest: a job that waits for days goes back and forth between the same few."""


def with_reason(before: str, code: str, now_s: float) -> str:
    """The history with `code` as what it waits for now; unchanged while that stays the same. `""`: it waits no more."""
    kept = before.split()
    if kept and kept[-1].partition("@")[0] == (code or "-"):
        return before
    if not code and not kept:
        return ""
    return " ".join([*kept, f"{code or '-'}@{int(now_s)}"][-MOST:])


def reasons_in(history: str) -> Iterator[tuple[str, float, float | None]]:
    """(code, since, until) of each reason, oldest first, in Unix seconds; until None: it waits for it now."""
    found = [(code, float(at)) for code, _, at in (item.partition("@") for item in history.split())]
    for place, (code, since) in enumerate(found):
        if code != "-":
            yield code, since, found[place + 1][1] if place + 1 < len(found) else None
