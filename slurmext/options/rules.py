"""The rule that a value must follow, by the kind of its row: the same verdict as the checks in C and in Lua."""

from __future__ import annotations

import re

from slurmext.errors import UsageError
from slurmext.options.row import LARGEST_MEMORY_MIB, SIGNALS, Argument, Kind, Option

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PATH_RE = re.compile(rf"{_NAME}(?:/{_NAME})*", re.ASCII)
_NAMES_RE = re.compile(rf"{_NAME}(?:,{_NAME})*", re.ASCII)
_CHECKPOINT_RE = re.compile(rf"(?:SIG)?(?:{'|'.join(SIGNALS)})@([1-9][0-9]{{0,5}})", re.ASCII)
_COUNT_RE = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_DIRECTORY_RE = re.compile(r"/[^\x00-\x1f\x7f]*")
_SLICE_RE = re.compile(
    r"(?:[1-9][0-9]?c\.)?[1-9][0-9]?g\.[1-9][0-9]{0,3}gb(?:[+-][a-z][a-z.]{0,15})?(?::([1-9][0-9]?))?", re.ASCII
)
_MEMORY_RE = re.compile(r"([1-9][0-9]{0,8})([MGT]?)", re.ASCII)
_PERCENT_RE = re.compile(r"([1-9][0-9]{0,2})%?", re.ASCII)
_MODEL_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._]|-(?!-)){0,95}"
_MODEL_RE = re.compile(rf"{_MODEL_PART}(?:/{_MODEL_PART}){{0,2}}(?:@[A-Za-z0-9][A-Za-z0-9._-]{{0,63}})?", re.ASCII)
_UNIT_MIB = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
_FLAG_ON = frozenset({"1", "yes", "true"})
_FLAG_OFF = frozenset({"0", "no", "false"})


def memory_mib(value: str) -> int | None:
    """MiB of `18G`, `512M`, `1T` or `10240`; None for anything else."""
    found = _MEMORY_RE.fullmatch(value)
    return None if found is None else int(found[1]) * _UNIT_MIB[found[2]]


def percent(value: str) -> int | None:
    """`30%` or `30` as a number; None for anything else."""
    found = _PERCENT_RE.fullmatch(value)
    return None if found is None else int(found[1])


def is_valid(option: Option, value: str) -> bool:
    """Whether `value` follows the row's rule. The same verdict as the C and the Lua check."""
    match option.kind:
        case Kind.PATH:
            return len(value) <= option.high and _PATH_RE.fullmatch(value) is not None
        case Kind.CHECKPOINT:
            how = value.removesuffix(",chain")
            found = _CHECKPOINT_RE.fullmatch(how)
            return how in {"auto", "transparent"} or (found is not None and option.low <= int(found[1]) <= option.high)
        case Kind.DIRECTORY:
            fits = len(value.encode(errors="surrogateescape")) <= option.high
            return fits and _DIRECTORY_RE.fullmatch(value) is not None and ".." not in value.split("/")
        case Kind.NAMES:
            names = value.split(",")
            return _NAMES_RE.fullmatch(value) is not None and len(set(names)) == len(names) <= option.high
        case Kind.COUNT:
            return _COUNT_RE.fullmatch(value) is not None and option.low <= int(value) <= option.high
        case Kind.SLICE:
            found = _SLICE_RE.fullmatch(value)
            return found is not None and (found[1] is None or option.low <= int(found[1]) <= option.high)
        case Kind.MEMORY:
            return memory_mib(value) is not None and option.low <= (memory_mib(value) or 0) <= option.high
        case Kind.PERCENT:
            return percent(value) is not None and option.low <= (percent(value) or 0) <= option.high
        case Kind.SHARE:
            part, mem, size = value.partition(",mem=")
            limits = (percent(part) or 0, memory_mib(size) or 0)
            return bool(mem) and option.low <= limits[0] <= option.high and 1 <= limits[1] <= LARGEST_MEMORY_MIB
        case Kind.MODELS:
            models = value.split(",")
            fits = option.low <= len(set(models)) == len(models) <= option.high
            return fits and all(_MODEL_RE.fullmatch(model) for model in models)
        case Kind.FLAG:
            return value in _FLAG_ON or value in _FLAG_OFF


def is_set(option: Option, value: str) -> bool:
    """Whether a valid value turns the option on: only a flag's environment twin can say no."""
    return not (option.kind is Kind.FLAG and value in _FLAG_OFF)


def check(option: Option, value: str, prefix: str = "") -> str:
    """Return `value`; raise UsageError in one line naming value, rule and an example when it breaks the rule."""
    if is_valid(option, value):
        return value
    flag = option.flag(prefix)
    example = flag if option.argument is Argument.NONE else f"{flag}={option.example}"
    message = f"{flag}={value}: must be {option.rule}; for example {example}"
    raise UsageError(message)
