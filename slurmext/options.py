"""The option table: one row per extended sbatch option, and the rule its value must follow.

Everything that knows an option is generated from here (`python -m slurmext.options generate`): the C header of the
SPANK plugin, the table of job_submit.lua, man page, shell completion, reference page and the keyword arguments of the
Python helper. `python -m slurmext.options generate --check` fails when one of them is stale.

The value rules exist three times, in Python here, in C (`spank/slurmext.c`) and in Lua
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
    SLICE = "slice"
    """A MIG profile such as `1g.10gb` or `1g.10gb+me`; `:N` may follow, from `low` to `high`."""
    MEMORY = "memory"
    """GPU memory: a whole number and M, G or T (none: M), from `low` to `high` MiB."""
    PERCENT = "percent"
    """A whole number of percent from `low` to `high`; `%` may follow."""
    SHARE = "share"
    """A percentage from `low` to `high` and a memory as above: `25%,mem=10G`."""
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
            "`auto` it is ignored until the program installs its own handler. `transparent` saves an "
            "unmodified program of one node from outside, with CRIU. With `,chain` the job is checkpointed and "
            "requeued before its time limit ends, until the program ends by itself. The job becomes requeueable unless "
            "--no-requeue is given."
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
        name="gpu-slice",
        env="SLURMEXT_GPU_SLICE",
        key="slice",
        kind=Kind.SLICE,
        argument=Argument.REQUIRED,
        metavar="profile[:N]",
        low=1,
        high=64,
        rule="a MIG profile such as 1g.10gb, and ':N' for N of them on each node, from 1 to 64",
        example="1g.10gb:2",
        summary="run on a part of a GPU: a MIG profile, e.g. 1g.10gb or 3g.40gb:2",
        detail=(
            "The job gets N instances of that profile on each node (default: one for each task there) and sees "
            "nothing else of the GPUs. `slurmext slice list --profiles` shows what the GPUs here can be cut into. Not "
            "together with options that ask for whole GPUs."
        ),
        exported=True,
        good=("1g.10gb", "3g.40gb:2", "1g.24gb+me.all", "1g.24gb-me", "12g.180gb:64", "1c.3g.40gb"),
        bad=(
            "",
            "1g",
            "1g.10gb:",
            "1g.10gb:0",
            "1g.10gb:65",
            "1g.10gb:02",
            "1g.10gb:2:2",
            "10gb",
            "1G.10GB",
            "g.10gb",
            "1g.gb",
            "1g.10gb,2g.20gb",
            "1g.10gb 2",
            "1g.10gb+",
            "1g.10gb+ME",
            "7g.10gb/../x",
            "1g.10gb+" + "m" * 40,
        ),
    ),
    Option(
        name="gpu-mem",
        env="SLURMEXT_GPU_MEM",
        key="gpu_mem",
        kind=Kind.MEMORY,
        argument=Argument.REQUIRED,
        metavar="size[M|G|T]",
        low=1,
        high=16777216,
        rule="a whole number and M, G or T, from 1M to 16T",
        example="18G",
        summary="run on a part of a GPU with at least this much GPU memory",
        detail=(
            "The smallest MIG instance or MPS share with so much GPU memory is chosen for each task; `slurmext job "
            "explain` says which and why. May be given together with --gpu-compute."
        ),
        good=("18G", "512M", "1T", "10240", "1", "16777216", "16T"),
        bad=("", "0", "0G", "G", "18g", "18GB", "1.5G", "-1G", "18 G", "017G", "17T", "16777217", "99999999999G"),
    ),
    Option(
        name="gpu-compute",
        env="SLURMEXT_GPU_COMPUTE",
        key="gpu_compute",
        kind=Kind.PERCENT,
        argument=Argument.REQUIRED,
        metavar="percent",
        low=1,
        high=100,
        rule="a whole number of percent from 1 to 100",
        example="30%",
        summary="run on a part of a GPU with at least this share of its compute power",
        detail="As --gpu-mem, for the GPU's streaming multiprocessors. Usually given together with it.",
        good=("30%", "30", "1%", "100%", "100"),
        bad=("", "0", "0%", "101", "101%", "%", "030%", "-5%", "5.5%", "30%%", "30 %", "1000"),
    ),
    Option(
        name="gpu-share",
        env="SLURMEXT_GPU_SHARE",
        key="share",
        kind=Kind.SHARE,
        argument=Argument.REQUIRED,
        metavar="percent,mem=size",
        low=1,
        high=100,
        rule="a percentage from 1% to 100% and a memory limit, PERCENT%,mem=SIZE with SIZE a number and M, G or T",
        example="25%,mem=10G",
        summary="share a GPU with others: so much of its compute and memory, e.g. 25%,mem=10G",
        detail=(
            "The job's processes run under CUDA MPS with at most that percentage of the GPU's multiprocessors and at "
            "most that much of its memory, all its processes on a node together. Any percentage is possible, but a "
            "fault of one client may disturb the others: choose --gpu-slice where jobs must be apart."
        ),
        good=("25%,mem=10G", "25,mem=10240", "100%,mem=512M", "1%,mem=1T"),
        bad=(
            "",
            "25%",
            "0%,mem=10G",
            "101%,mem=10G",
            "25%,mem=",
            "25%,mem=0",
            "25%,10G",
            "mem=10G,25%",
            "25%,mem=10G,",
            "25%, mem=10G",
            "25%,mem=17T",
            "25%,MEM=10G",
            "25%,mem=10GB",
            "-25%,mem=10G",
        ),
    ),
    Option(
        name="gpu-oom-retry",
        env="SLURMEXT_GPU_OOM_RETRY",
        key="oom",
        kind=Kind.FLAG,
        argument=Argument.NONE,
        metavar="",
        low=0,
        high=0,
        rule="1, yes or true to set it; 0, no or false to leave it",
        example="1",
        summary="out of GPU memory on a slice: start again once, on the next larger size",
        detail=(
            "A job of slices that fails because its GPU memory did not suffice is requeued once with the next larger "
            "profile (or twice the memory of a share). `slurmext slice advise` says which size would have done."
        ),
        default="1",
        good=("1", "yes", "true", "0", "no", "false"),
        bad=("2", "on", "maybe", "-1", " 1"),
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
_SLICE_RE = re.compile(
    r"(?:[1-9][0-9]?c\.)?[1-9][0-9]?g\.[1-9][0-9]{0,3}gb(?:[+-][a-z][a-z.]{0,15})?(?::([1-9][0-9]?))?", re.ASCII
)
_MEMORY_RE = re.compile(r"([1-9][0-9]{0,8})([MGT]?)", re.ASCII)
_PERCENT_RE = re.compile(r"([1-9][0-9]{0,2})%?", re.ASCII)
_UNIT_MIB = {"": 1, "M": 1, "G": 1024, "T": 1024 * 1024}
LARGEST_MEMORY_MIB = 16777216
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
