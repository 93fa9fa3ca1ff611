"""Running on a part of a GPU."""

from __future__ import annotations

from slurmext.options.row import Argument, Kind, Option

GPU_SLICE = Option(
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
)

GPU_MEM = Option(
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
        "The smallest MIG instance or MPS share with so much GPU memory is chosen for each task (a number alone means "
        "MiB, as with --mem); `slurmext job "
        "explain` says which and why. May be given together with --gpu-compute."
    ),
    good=("18G", "512M", "1T", "10240", "1", "16777216", "16T"),
    bad=("", "0", "0G", "G", "18g", "18GB", "1.5G", "-1G", "18 G", "017G", "17T", "16777217", "99999999999G"),
)

GPU_COMPUTE = Option(
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
)

GPU_SHARE = Option(
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
)

GPU_OOM_RETRY = Option(
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
)
