"""Values as people read and write them: times, spans, sizes."""

from __future__ import annotations

import re
from datetime import datetime

from slurmext.errors import UsageError

_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def plain(value: object) -> str:
    """Text for a cell: nothing for None, `yes` or `no` for truth."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def moment(value: float | None) -> str:
    """Unix seconds -> local `2026-11-21T10:00:00`."""
    return "" if value is None else datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%dT%H:%M:%S")


def clock(value: float | None) -> str:
    """Unix seconds -> local `10:00:00`, with the date when it is not today."""
    if value is None:
        return ""
    when = datetime.fromtimestamp(value).astimezone()
    today = datetime.now().astimezone().date()
    return when.strftime("%H:%M:%S" if when.date() == today else "%Y-%m-%d %H:%M:%S")


def span(seconds: float | None) -> str:
    """Seconds -> `20 ms`, `45 s`, `2 min 5 s`, `3 h 10 min`, `2 d 4 h`."""
    if seconds is None:
        return ""
    whole = int(seconds)
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 10 and seconds != whole:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    for size, name, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name} {rest} {small}" if rest else f"{whole // size} {name}"
    return f"{whole} s"


def size(value: int | None) -> str:
    """Bytes -> `12 MiB`."""
    if value is None:
        return ""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def parse_span(text: str) -> float:
    """`2h`, `90m`, `1h30m`, `0` -> seconds. Raises UsageError."""
    if text == "0":
        return 0.0
    if not re.fullmatch(r"(\d{1,9}[smhdw])+", text):
        raise UsageError(f"{text!r} is no duration; for example 30m, 2h, 1h30m or 1d")
    return float(sum(int(count) * _SPANS[unit] for count, unit in re.findall(r"(\d+)([smhdw])", text)))


def parse_since(text: str, now_s: float) -> float:
    """`2h`, `3d`, `today`, `2026-11-21`, `2026-11-21T10:00`, Unix seconds -> Unix seconds. Raises UsageError."""
    if match := re.fullmatch(r"(?:now-)?(\d+)([smhdw])", text):
        return now_s - int(match[1]) * _SPANS[match[2]]
    if re.fullmatch(r"\d{9,11}", text):
        return float(text)
    if text == "today":
        return datetime.fromtimestamp(now_s).astimezone().replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time; for example 2h, 3d, today, 2026-11-21 or 2026-11-21T10:00") from error
    return when.astimezone().timestamp()
