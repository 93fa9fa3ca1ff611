"""The picture of `slurmext slice map`: a line for each GPU, its units drawn to scale."""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from slurmext.model.amounts import counted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

Card = Mapping[str, Any]

WIDTH, LEAST_WIDTH = 64, 16
"""Columns of a whole GPU, so many for 8 units as for 12: on a wide terminal, and at least."""
_TITLES = ("Node", "GPU", "Type", "Use", "Memory units, or percent of a shared GPU", "Free")
_GAP = 2
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_HUNDRED = 100
_KEEP = "\N{NO-BREAK SPACE}"
_FREE, _USELESS = "·", "-"
_NO_MEMORY = "no memory left"


@contextlib.contextmanager
def frames(
    screen: Console, *, show_all: bool = False, seldom_s: float = 0.0
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What it yields draws a map: on a terminal in the former one's place; elsewhere below it, written out at once, and
    not again before so many seconds have passed.
    """
    from rich.live import Live

    live = Live(console=screen, auto_refresh=False) if screen.is_terminal else None
    last_s = float("-inf")

    def show(answer: Mapping[str, Any]) -> None:
        nonlocal last_s
        picture = drawn(answer, show_all=show_all, columns=screen.width)
        if live is not None:
            live.update(picture, refresh=True)
        elif time.monotonic() - last_s >= seldom_s:
            last_s = time.monotonic()
            screen.print(picture)

    with live or contextlib.nullcontext():
        yield show


def drawn(answer: Mapping[str, Any], *, show_all: bool = False, columns: int = 10_000) -> RenderableType:
    """Something rich can print, in so many columns of a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    cards = [card for card in answer["gpus"] if show_all or card["use"] in {"mig", "shared"}]
    told = [_told(card) for card in cards]
    rest = sum(max(map(len, column)) + _GAP for column in zip(_TITLES[:4] + _TITLES[5:], *told, strict=True))
    width = max(LEAST_WIDTH, min(WIDTH, columns - rest))
    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for title in _TITLES:
        units = title == _TITLES[4]
        table.add_column(
            title, no_wrap=True, min_width=width if units else None, justify="right" if title == "Free" else "left",
            max_width=width if units and width < WIDTH else None,
        )  # fmt: skip
    for card, (*left, free) in zip(cards, told, strict=True):
        table.add_row(*left, bar(card, width), free)
    below = Text(broken(summary(answer), columns))
    return Group(table, below) if cards else Group(Text("no GPU is cut or shared"), below)


def _told(card: Card) -> tuple[str, ...]:
    """The columns around the picture."""
    use = card["use"] + (" (leaving)" if card["leaving"] else "")
    free = f"{card['free_gpus']:.2f}" if card["use"] in {"mig", "shared"} else ""
    return card["node"], str(card["minor"]), card["gpu_type"], use, free


def summary(answer: Mapping[str, Any]) -> str:
    """What is free, and for what. Words that belong together have a no-break space between them."""
    found = answer["fragmentation"]
    whole = sum(card["use"] == "whole" for card in answer["gpus"])
    fits = ", ".join(_together(f"{fit['fits']} x {fit['profile']}") for fit in found["fits"] if fit["fits"])
    cut = any(card["free_gpus"] for card in answer["gpus"] if card["use"] == "mig")
    used, free = counted(found["gpus"], "GPU"), f"{found['free_gpus']:.2f} free there"
    parts = [
        ", ".join(map(_together, (f"{used} in sliced use", free, f"{whole} whole"))),
        _together(f"fragmentation {found['percent']:g} %") if found["fits"] and cut else "",
        _together("room for ") + fits if fits else "",
    ]
    return "; ".join(filter(None, parts))


def _together(words: str) -> str:
    return words.replace(" ", _KEEP)


def broken(text: str, columns: int) -> str:
    """In lines of so many columns; rich would break at no-break spaces as well."""
    return textwrap.fill(text, columns, break_on_hyphens=False).replace(_KEEP, " ")


def bar(card: Card, width: int = WIDTH) -> Text:
    """One GPU to scale, in so many columns."""
    from rich.text import Text

    if card["use"] == "shared":
        return _shares(card, width)
    if card["use"] != "mig" or not card["memory_units"]:
        return Text(
            "whole" if card["use"] == "whole" else "not known: its agent is away, or something else cut it", "dim"
        )
    return _instances(card, width)


def _instances(card: Card, columns: int) -> Text:
    from rich.text import Text

    units, text = int(card["memory_units"]), Text()
    edge = [round(unit * columns / units) for unit in range(units + 1)]
    by_start = {part["start"]: part for part in card["parts"]}
    free = _FREE if card["fits"] else _USELESS
    unit = 0
    while unit < units:
        part = by_start.get(unit)
        end = min(units, unit + (part["units"] if part else 1))
        width = edge[end] - edge[unit]
        text.append(*(_block(part, width) if part else (free.ljust(width), "dim")))
        unit = end
    return text


def _shares(card: Card, columns: int) -> Text:
    """By percent. What nobody can have any more, since the memory is given away, is drawn last."""
    from rich.text import Text

    text, at = Text(), 0
    for part in card["parts"]:
        width = min(columns - at, max(1, round(part["percent"] * columns / _HUNDRED)))
        text.append(*_block(part, width))
        at += width
    unused = 1 - sum(part["percent"] for part in card["parts"]) / _HUNDRED
    useless = min(columns - at, max(0, int((unused - card["free_gpus"]) * columns)))
    text.append(_FREE * (columns - at - useless), "dim")
    words = f" {_NO_MEMORY} " if useless > len(_NO_MEMORY) + 2 else ""
    text.append(words.center(useless, _USELESS), "dim")
    return text


def _block(part: Card, width: int) -> tuple[str, str]:
    """`[12 1g.10gb]` in so many columns, coloured by job. Job ids are Slurm's, never a user's text.

    A word that does not fit is left out as a whole: of a number that is cut nobody sees that it is.
    """
    memory = "" if part.get("memory_mib") is None else f" {_memory(part['memory_mib'])}"
    words = part["profile"] if part["kind"] == "mig" else f"{part['percent']}%{memory}"
    inner = max(0, width - 2)
    label = ""
    for word in (part["job"] or part["state"], *words.split()):
        longer = f"{label} {word}".strip()
        if len(longer) > inner:
            break
        label = longer
    label = label.ljust(inner)
    style = "dim" if part["state"] in {"warm", "foreign", "unknown", "taken"} else _colour(str(part["job"]))
    if part["state"] == "reserved":
        style += " italic"
    return (f"[{label}]" if width > 1 else "|"), style


def _memory(mib: int) -> str:
    return f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"


def _colour(job: str) -> str:
    digits = "".join(character for character in job if character.isdigit()) or "0"
    return f"black on {_COLOURS[int(digits) % len(_COLOURS)]}"
