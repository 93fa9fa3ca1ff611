"""The option table: one row per extended sbatch option, and the rule its value must follow.

Everything that knows an option is generated from here (`python -m slurmext.options generate`): the C header of the
SPANK plugin, the table of job_submit.lua, man page, shell completion, reference page and the keyword arguments of the
Python helper. `python -m slurmext.options generate --check` fails when one of them is stale.

The five value rules exist three times, in Python here, in C (`spank/slurmext.c`) and in Lua
(`spank/templates/job_submit.lua.j2`), because a value is checked where the user types it and again where it is trusted.
Every row therefore carries good and bad values, and the tests hold all three to the same verdict.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from enum import StrEnum

from slurmext.errors import UsageError

PLUGIN = "slurmext"
PREFIX_RE = re.compile(r"(?:[a-z][a-z0-9-]{0,30})?")
SIGNALS = ("USR1", "USR2", "TERM", "INT", "HUP", "QUIT", "CONT", "URG", "WINCH", "XCPU")
AUTO_CHECKPOINT = "USR1@60"


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


OPTIONS: tuple[Option, ...] = (
    Option(
        name="queue",
        env="SLURMEXT_QUEUE",
        key="queue",
        kind=Kind.PATH,
        argument=Argument.REQUIRED,
        metavar="path",
        low=1,
        high=255,
        rule="a queue path: names of letters, digits, '_', '.' or '-' joined by '/'",
        example="prod/chat",
        summary="run in this quota queue, e.g. prod/chat",
        detail=(
            "The queue whose guaranteed and max GPUs the job counts against. `slurmext queue list` shows the queues "
            "you may use. Without it the job goes to the site's default queue."
        ),
        exported=True,
        good=("prod", "prod/chat", "org/team_1/user-group", "a.b/c"),
        bad=("", "/prod", "prod/", "prod//chat", "prod chat", "-prod", "prod/..", "é", "a" * 256, "prod;rm"),
    ),
    Option(
        name="ckpt",
        env="SLURMEXT_CKPT",
        key="ckpt",
        kind=Kind.CHECKPOINT,
        argument=Argument.OPTIONAL,
        metavar="auto|transparent|SIGNAL@SECONDS[,chain]",
        low=1,
        high=86400,
        rule=f"'auto', 'transparent' or SIGNAL@SECONDS with SIGNAL one of {', '.join(SIGNALS)} and SECONDS from 1 to "
        "86400; ',chain' may follow",
        example=AUTO_CHECKPOINT,
        summary="checkpoint on this signal before the job is preempted, within so many seconds",
        detail=(
            f"The job saves its state when it gets the signal, and has at most SECONDS before it is requeued. "
            f"`auto`, or no value, means {AUTO_CHECKPOINT}. The signal reaches the batch shell and every step; with "
            "`auto` it is ignored until the program installs its own handler. `transparent` saves an unmodified "
            "program of one node from outside, with CRIU. With `,chain` the job is checkpointed and requeued before its "
            "time limit ends, until the program ends by itself. The job becomes requeueable unless --no-requeue is given."
        ),
        default="auto",
        exported=True,
        good=(
            "auto",
            "USR1@60",
            "SIGUSR2@5",
            "TERM@86400",
            "auto,chain",
            "USR1@60,chain",
            "transparent",
            "transparent,chain",
        ),
        bad=(
            "",
            "AUTO",
            "USR1",
            "USR1@",
            "@60",
            "USR1@0",
            "USR1@86401",
            "KILL@60",
            "STOP@60",
            "USR1@-5",
            "USR1@60s",
            "usr1@60",
            "USR1@060",
            "10@60",
            "chain",
            "auto,",
            "auto,chain,chain",
            "auto, chain",
            "transparent@60",
        ),
    ),
    Option(
        name="ckpt-dir",
        env="SLURMEXT_CKPT_DIR",
        key="ckpt_dir",
        kind=Kind.DIRECTORY,
        argument=Argument.REQUIRED,
        metavar="dir",
        low=1,
        high=500,
        rule="an absolute directory of at most 500 bytes without '..' or control characters",
        example="/scratch/alice/run7",
        summary="keep the job's checkpoints in this directory (absolute path)",
        detail=(
            "Where `slurmext.checkpoint` writes and looks for checkpoints. It must be reachable from every node the "
            "job may restart on."
        ),
        exported=True,
        good=("/", "/scratch/alice/run7", "/scratch/with space/x", "/data/50%/é"),
        bad=("", "scratch", "./x", "/a/../b", "/..", "/a\nb", "/a\tb", "/" + "a" * 500),
    ),
    Option(
        name="gpu-types",
        env="SLURMEXT_GPU_TYPES",
        key="types",
        kind=Kind.NAMES,
        argument=Argument.REQUIRED,
        metavar="type[,type...]",
        low=1,
        high=16,
        rule="at most 16 different GPU types, best first, joined by ','; letters, digits, '_', '.' or '-'",
        example="h100,a100",
        summary="accept these GPU types, best first; 'any' accepts all",
        detail=(
            "The GPU types that the job accepts, in the order it prefers them. The first one with room in the "
            "queue's quota is used; `slurmext job explain` says why one was passed over."
        ),
        good=("h100", "h100,a100,any", "nvidia_a100-sxm4-40gb", "1g.10gb"),
        bad=(
            "",
            ",",
            "h100,",
            ",h100",
            "h100,,a100",
            "h100,h100",
            "h100 a100",
            "h100:2",
            ",".join(f"t{i}" for i in range(17)),
        ),
    ),
    Option(
        name="gang-min",
        env="SLURMEXT_GANG_MIN",
        key="gang_min",
        kind=Kind.COUNT,
        argument=Argument.REQUIRED,
        metavar="tasks",
        low=1,
        high=100000,
        rule="a whole number of tasks from 1 to 100000",
        example="4",
        summary="start with, and shrink to, no fewer than this many tasks",
        detail=(
            "The smallest number of tasks the job can work with. The default is all of them: the job starts whole or "
            "not at all. It may not be larger than the number of tasks."
        ),
        good=("1", "4", "100000"),
        bad=("", "0", "-1", "+4", "04", "4.0", "four", "100001", "4 ", "0x4", "99999999999999999999"),
    ),
    Option(
        name="size",
        env="SLURMEXT_SIZE",
        key="size",
        kind=Kind.NAMES,
        argument=Argument.REQUIRED,
        metavar="name",
        low=1,
        high=1,
        rule="the name of a size: letters, digits, '_', '.' or '-'",
        example="small",
        summary="ask for what this size says: GPUs, nodes, CPUs, memory, time",
        detail=(
            "A request template of your site; `slurmext size list` shows them. What you ask for yourself, with an "
            "option or its environment variable, wins over the size. GPUs for the whole job or for each task "
            "(`--gpus`, `--gpus-per-task`) replace the size's nodes, GPUs and tasks."
        ),
        good=("small", "xl", "8x.h100", "a_b-c"),
        bad=("", "small,large", "-small", "small large", "a/b", "é"),
    ),
    Option(
        name="no-preempt",
        env="SLURMEXT_NO_PREEMPT",
        key="preempt",
        kind=Kind.FLAG,
        argument=Argument.NONE,
        metavar="",
        low=0,
        high=0,
        rule="1, yes or true to set it; 0, no or false to leave it",
        example="1",
        summary="never preempt this job; it then uses guaranteed GPUs only",
        detail=(
            "The job is never chosen as a victim. In exchange it only starts inside its queue's guarantee and never "
            "on borrowed GPUs."
        ),
        default="1",
        good=("1", "yes", "true", "0", "no", "false"),
        bad=("2", "on", "maybe", "-1", " 1"),
    ),
)
BY_NAME = {option.name: option for option in OPTIONS}

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PATH_RE = re.compile(rf"{_NAME}(?:/{_NAME})*", re.ASCII)
_NAMES_RE = re.compile(rf"{_NAME}(?:,{_NAME})*", re.ASCII)
_CHECKPOINT_RE = re.compile(rf"(?:SIG)?(?:{'|'.join(SIGNALS)})@([1-9][0-9]{{0,5}})", re.ASCII)
_COUNT_RE = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_DIRECTORY_RE = re.compile(r"/[^\x00-\x1f\x7f]*")
_FLAG_ON = frozenset({"1", "yes", "true"})
_FLAG_OFF = frozenset({"0", "no", "false"})


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


def main(argv: list[str]) -> int:
    """`python -m slurmext.options generate [--check]`."""
    from slurmext.spank import generate  # noqa: PLC0415  jinja2 is needed only here

    if argv not in (["generate"], ["generate", "--check"]):
        sys.stderr.write("usage: python -m slurmext.options generate [--check]\n")
        return 2
    return generate.run(check="--check" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
