"""Where a job runs and what it asks for: queue, GPU types, size, gang, preemption."""

from __future__ import annotations

from slurmext.options.row import Argument, Kind, Option

QUEUE = Option(
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
)

GPU_TYPES = Option(
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
)

GANG_MIN = Option(
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
)

SIZE = Option(
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
)

NO_PREEMPT = Option(
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
)
