"""docs/reference/cli.md: every command with its options, examples and exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slurmext.cli.base import EXIT_CODES
from slurmext.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """\
# Commands

`slurmext COMMAND --help` shows the same on the terminal. Lists take the flags of `sacctmgr`: `-n` no header, `-P`
fields separated by `|`, `-o FIELDS` which fields; `--json` gives data. Colour appears on a terminal only. Commands that
change something ask first; `-i` goes ahead. Exit codes are 0 (done), 1 (failed, or something was found) and 2 (the
command line is wrong), where nothing else is said.
"""


def page() -> str:
    """The page's text."""
    context = click.Context(cli, info_name="slurmext")
    return HEAD + "".join(_section(cli, context))


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name."""
    for context, command in _walk(cli, click.Context(cli, info_name="slurmext")):
        if not isinstance(command, click.Group):
            yield context.command_path, command


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    yield context, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _walk(found, click.Context(found, info_name=name, parent=context))


def _section(root: click.Command, top: click.Context) -> Iterator[str]:
    for context, command in _walk(root, top):
        if command is root:
            continue
        level = "#" * (1 + len(context.command_path.split()) - 1)
        yield f"\n{level} {context.command_path}\n\n{_paragraphs(command.help or '')}"
        if isinstance(command, click.Group):
            yield "\n"
            continue
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"\n\n```\n{context.command_path} {usage}\n```\n"
        yield from _options(command, context)
        examples = getattr(command, "examples", ())
        if examples:
            yield "\nExamples:\n\n"
            yield from (f"- `{line}`: {what}\n" for line, what in examples)
        codes = {
            code: text for code, text in getattr(command, "exit_codes", {}).items() if EXIT_CODES.get(code) != text
        }
        if codes:
            yield "\nExit codes: " + ", ".join(f"{code} {text}" for code, text in codes.items()) + ".\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = (parameter.get_help_record(context) for parameter in command.params)
    rows = [record for record in records if record is not None and record[1]]  # arguments stand in the usage line
    if rows:
        yield "\n| Option | Meaning |\n|---|---|\n"
        yield from (f"| `{_cell(names)}` | {_cell(' '.join(text.split()))} |\n" for names, text in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.replace("\b", "").strip().splitlines())
