"""When and where a job saves its state."""

from __future__ import annotations

from slurmext.options.row import SIGNALS, Argument, Kind, Option

AUTO_CHECKPOINT = "USR1@60"

CKPT = Option(
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
)

CKPT_DIR = Option(
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
)
