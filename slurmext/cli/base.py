"""Command classes: help with examples and exit codes, and a nearest name for a mistyped command."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from slurmext.errors import SlurmextError, UsageError

Examples = Sequence[tuple[str, str]]
EXIT_CODES: Mapping[int, str] = {0: "done", 1: "failed", 2: "the command line is wrong"}


class Command(click.Command):
    """`examples` are (command line, what it does); `exit_codes` replaces or adds to the usual ones."""

    def __init__(
        self, *args: Any, examples: Examples = (), exit_codes: Mapping[int, str] | None = None, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.examples = tuple(examples)
        self.exit_codes = {**EXIT_CODES, **(exit_codes or {})}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, then exit codes."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                formatter.write_dl([*self.examples])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in self.exit_codes.items()])


def program() -> str:
    """How this very program is called again from the same shell: `slurmext` where PATH has it, else as it was."""
    found = shutil.which("slurmext")
    called = Path(sys.argv[0])
    if called.name != "slurmext":
        again = "slurmext" if found else f"{shlex.quote(sys.executable)} -m slurmext.cli"
    else:
        again = "slurmext" if found and Path(found).resolve() == called.resolve() else shlex.quote(str(called))
    return f"sudo {again}" if "SUDO_UID" in os.environ else again


class Group(click.Group):
    """Suggests the nearest command for one that is not there, and lists each with its whole first sentence."""

    command_class = Command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Wrapped where the terminal is too narrow."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in commands if command])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name in the error."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            names = self.list_commands(ctx)
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"commands: {', '.join(names)}"
            ctx.fail(f"there is no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)


class Told(click.ClickException):
    """An error that explains itself, as click prints errors."""

    def __init__(self, error: SlurmextError) -> None:
        super().__init__(str(error))
        self.exit_code = 2 if isinstance(error, UsageError) else 1
        self._located = hasattr(error, "problems")  # lines that already say file:line

    def show(self, file: Any = None) -> None:
        """The message on standard error."""
        click.echo(self.message if self._located else f"slurmext: {self.message}", err=True, file=file)


class Mistyped(click.UsageError):
    """What click finds wrong with a command line: one line, as for our own errors, and where the right way stands."""

    def show(self, file: Any = None) -> None:
        """The message on standard error."""
        path = self.ctx.command_path if self.ctx else "slurmext"
        words = " ".join(self.format_message().split()).rstrip(".")  # click lists choices on lines of their own
        end = "" if words.endswith("?") else "."
        click.echo(f"slurmext: {words[:1].lower()}{words[1:]}{end} See '{path} --help'", err=True, file=file)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise Mistyped(error.format_message(), error.ctx) from error
    except SlurmextError as error:
        raise Told(error) from error


class LazyGroup(Group):
    """Loads the module of a command when that command is used. `lazy` maps name -> (module:attribute, summary)."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **more: Any) -> None:
        super().__init__(*args, **more)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the table's order."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of the command."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Summaries from the table: nothing is imported for --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; an error becomes one line and an exit code."""
        with _in_one_line():
            return super().invoke(ctx)

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Reads the options before the command; the same for errors in them."""
        with _in_one_line():
            return super().make_context(*args, **more)
