"""What one row of the option table says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SIGNALS = ("USR1", "USR2", "TERM", "INT", "HUP", "QUIT", "CONT", "URG", "WINCH", "XCPU")
LARGEST_MEMORY_MIB = 16777216


class Argument(StrEnum):
    """Whether the option takes a value on the command line, as getopt_long(3) means it."""

    NONE = "none"
    REQUIRED = "required"
    OPTIONAL = "optional"


class Kind(StrEnum):
    """The shape of a value; `low` and `high` of the row bound its length, count or number."""

    PATH = "path"
    """Names joined by `/`; at most `high` bytes."""
    CHECKPOINT = "checkpoint"
    """`auto`, `transparent`, or a signal of SIGNALS and whole seconds from `low` to `high`, joined by `@`; `,chain`
    may follow.
    """
    DIRECTORY = "directory"
    """An absolute path without `..` and control characters; at most `high` bytes."""
    NAMES = "names"
    """At most `high` different names joined by commas."""
    COUNT = "count"
    """A whole number from `low` to `high`, without sign or leading zero."""
    SLICE = "slice"
    """A MIG profile such as `1g.10gb` or `1g.10gb+me`; `:N` may follow, from `low` to `high`."""
    MEMORY = "memory"
    """GPU memory: a whole number and M, G or T (none: M), from `low` to `high` MiB."""
    PERCENT = "percent"
    """A whole number of percent from `low` to `high`; `%` may follow."""
    SHARE = "share"
    """A percentage from `low` to `high` and a memory as above: `25%,mem=10G`."""
    MODELS = "models"
    """From `low` to `high` different models joined by commas, `org/name` or `org/name@revision`."""
    FLAG = "flag"
    """Given or not; its environment twin takes 1, yes, true, 0, no or false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. `key` is its name in the job annotation; `default` is the value it has when given without one."""

    name: str
    env: str
    key: str
    kind: Kind
    argument: Argument
    metavar: str
    low: int
    high: int
    rule: str
    """Completes the sentence "--name=value: must be …"."""
    example: str
    summary: str
    detail: str
    default: str = ""
    exported: bool = False
    """Also set as `env` in the job's own environment, so that a step or the checkpoint library sees it."""
    good: tuple[str, ...]
    bad: tuple[str, ...]

    @property
    def python_name(self) -> str:
        """The keyword argument of the Python helper."""
        return self.name.replace("-", "_")

    def flag(self, prefix: str = "") -> str:
        """The option as typed, with the site's prefix."""
        return f"--{prefix}{self.name}"
