"""Rows as a table, parsable text or JSON, with the flags that sacctmgr users know: -n -P -o, and --json."""

from __future__ import annotations

import difflib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from slurmext.cli.formats import plain
from slurmext.errors import UsageError

Row = Mapping[str, Any]
_ENDLESS, _LINE = 10_000, 100
"""Columns of what is no terminal: as many as it takes, or what people read a table with sentences in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: `key` of the row's value, `title` as shown and as -o takes it. `shown` False: only with -o. `wraps`: a
    sentence, which a table breaks between words so that no line is too long. `tabled` False: a table has it only with
    -o, as another column says it as well; programs get it always.
    """

    key: str
    title: str
    show: Callable[[Any], str] = plain
    right: bool = False
    shown: bool = True
    wraps: bool = False
    tabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How the user wants rows printed."""

    noheader: bool = False
    parsable: bool = False
    fields: str | None = None
    as_json: bool = False

    def rows(self, columns: Sequence[Column], rows: Iterable[Row], *, empty: str = "") -> None:
        """Print rows. `empty` is said on standard error when there are none and a person reads a table."""
        chosen = self._chosen(columns)
        rows = list(rows)
        if self.as_json:
            keep = None if self.fields is None else [column.key for column in chosen]
            print_json([dict(row) if keep is None else {key: row.get(key) for key in keep} for row in rows])
        elif self.parsable:
            lines = [] if self.noheader else ["|".join(column.title for column in chosen)]
            lines += ["|".join(_one_line(column.show(row.get(column.key))) for column in chosen) for row in rows]
            click.echo("".join(f"{line}\n" for line in lines), nl=False)
        elif rows or not empty:
            self._table([column for column in chosen if column.tabled or self.fields is not None], rows)
        else:
            click.echo(empty, err=True)

    def value(self, value: object) -> bool:
        """Print a value as JSON when that was asked for; False when it was not."""
        if self.as_json:
            print_json(value)
        return self.as_json

    def _chosen(self, columns: Sequence[Column]) -> list[Column]:
        if self.fields is None:
            return [column for column in columns if column.shown]
        known = {name.lower(): column for column in columns for name in (column.key, column.title)}
        chosen: list[Column] = []
        for field in filter(None, (part.strip() for part in self.fields.split(","))):
            name = field.split("%")[0].lower()  # sacctmgr's Field%width: the width is the terminal's business
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {known[close[0]].title!r}? " if close else ""
                titles = ", ".join(column.title for column in columns)
                raise UsageError(f"there is no field {field!r}; {hint}fields: {titles}")
            chosen.append(known[name])
        return chosen

    def _table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=SIMPLE_HEAD, show_header=not self.noheader, pad_edge=False, show_edge=False, header_style="bold"
        )
        for column in columns:
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
        for row in rows:
            # Text: a job's name is data and may look like markup
            table.add_row(*(Text(_one_line(column.show(row.get(column.key)))) for column in columns))
        console(_LINE if any(column.wraps for column in columns) else _ENDLESS).print(table)


def console(width: int = _ENDLESS) -> Any:
    """Standard output. Colour only on a terminal; elsewhere lines are never cut, or wrapped before `width`."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else width, highlight=False,
                   soft_wrap=not terminal and width == _ENDLESS)  # fmt: skip


def print_json(value: object) -> None:
    """Indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """`key: value` lines, aligned."""
    rows = [(key, plain(value)) for key, value in rows]
    width = max((len(key) for key, _ in rows), default=0) + 1
    for key, value in rows:
        click.echo(f"{key + ':':<{width}} {value}".rstrip())


def _one_line(text: str) -> str:
    """Control characters of job names and messages must not reach a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -n -P -o --json; the function gets them as `output`."""

    @click.option("-n", "--noheader", is_flag=True, help="No header line.")
    @click.option("-P", "--parsable2", "parsable", is_flag=True, help="Fields separated by '|', for scripts.")
    @click.option("-o", "--format", "fields", metavar="FIELDS", help="Comma list of the fields to show.")
    @json_option
    @functools.wraps(function)
    def wrapped(*args: Any, noheader: bool, parsable: bool, fields: str | None, as_json: bool, **more: Any) -> Any:
        if as_json and parsable:
            raise UsageError("--json and -P exclude each other; give one of them")
        output = Output(noheader=noheader, parsable=parsable, fields=fields, as_json=as_json)
        return function(*args, output=output, **more)

    return wrapped


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json, given on as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")(function)


def confirm(question: str, *, immediate: bool) -> None:
    """Ask before a change. Raises UsageError where nobody can answer, click.Abort on 'no'."""
    if immediate:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to answer on; add -i to go ahead")
    click.confirm(question, abort=True)


def immediate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -i/--immediate."""
    return click.option("-i", "--immediate", is_flag=True, help="Do not ask for confirmation.")(function)
