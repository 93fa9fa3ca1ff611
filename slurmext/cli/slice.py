"""`slurmext slice`: parts of GPUs, who has them, and which size would have done."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import click

from slurmext.cli.base import Command, Group
from slurmext.cli.completing import complete_job
from slurmext.cli.formats import clock, moment, parse_since, plain
from slurmext.cli.render import Column, Output, console, json_option, output_options, print_json
from slurmext.cli.slice_map import drawn, frames

if TYPE_CHECKING:
    from slurmext.cli.session import Session


def _mib(value: object) -> str:
    return "" if value is None else f"{value}M"


def _percent(value: object) -> str:
    return "" if not isinstance(value, int | float) else f"{value:.0f}%"


def _milli(value: object) -> str:
    return "" if not isinstance(value, int) else f"{value / 1000:.2f}"


_SLICE = (
    Column(key="job_id", title="JobID"),
    Column(key="user", title="User"),
    Column(key="queue", title="Queue"),
    Column(key="node", title="Node"),
    Column(key="minor", title="GPU", right=True),
    Column(key="slice", title="Slice"),
    Column(key="start", title="Start", right=True),
    Column(key="memory_mib", title="Memory", show=_mib, right=True),
    Column(key="milli", title="GPUs", show=_milli, right=True),
    Column(key="state", title="State"),
)
COLUMNS = (
    *_SLICE,
    Column(key="changed_s", title="Since", show=clock),
    Column(key="gpu_type", title="Type", shown=False),
    Column(key="uuid", title="UUID", shown=False),
    Column(key="gpu_uuid", title="GPUUUID", shown=False),
    Column(key="made_ms", title="MadeMs", right=True, shown=False),
    Column(key="why", title="Why", shown=False),
)
PROFILE_COLUMNS = (
    Column(key="gpu_type", title="Type"),
    Column(key="profile", title="Profile"),
    Column(key="memory_mib", title="Memory", show=_mib, right=True),
    Column(key="sm", title="SMs", right=True),
    Column(key="compute_slices", title="ComputeSlices", right=True),
    Column(key="memory_units", title="MemoryUnits", right=True),
    Column(key="most", title="MostPerGPU", right=True),
    Column(key="gpus", title="GPUs", right=True),
    Column(key="fits_now", title="FitNow", right=True),
)
HISTORY_COLUMNS = (
    Column(key="created_s", title="Reserved", show=moment),
    *(column for column in _SLICE if column.title not in {"Queue", "Start", "Memory"}),
    Column(key="ended_s", title="Until", show=clock),
    Column(key="made_ms", title="MadeMs", right=True),
    Column(key="queue", title="Queue", shown=False),
    Column(key="start", title="Start", right=True, shown=False),
    Column(key="memory_mib", title="Memory", show=_mib, right=True, shown=False),
    Column(key="gpu_type", title="Type", shown=False),
    Column(key="live_s", title="From", show=clock, shown=False),
    Column(key="why", title="Why", shown=False),
    Column(key="uuid", title="UUID", shown=False),
    Column(key="gpu_uuid", title="GPUUUID", shown=False),
)
ADVICE_COLUMNS = (
    Column(key="job_id", title="JobID"),
    Column(key="user", title="User", shown=False),
    Column(key="had", title="Had"),
    Column(key="memory_mib", title="Memory", show=_mib, right=True, tabled=False),
    Column(key="memory_peak_mib", title="PeakMemory", show=_mib, right=True),
    Column(key="sm_mean_pct", title="SMMean", show=_percent, right=True, tabled=False),
    Column(key="sm_peak_pct", title="SMPeak", show=_percent, right=True, shown=False),
    Column(key="oom", title="OutOfMemory", show=plain, shown=False),
    Column(key="options", title="AskFor", show=lambda value: str(value) or "the same"),
    Column(key="why", title="Because", wraps=True),
    Column(key="samples", title="Samples", right=True, shown=False),
)


@click.group("slice", cls=Group)
def cli() -> None:
    """Slices: parts of GPUs (sbatch --gpu-slice, --gpu-mem, --gpu-share)."""


@cli.command(
    "list",
    cls=Command,
    examples=[
        ("slurmext slice list", "slices that jobs have or await"),
        ("slurmext slice list --profiles", "what the GPUs here can be cut into; FitNow: on GPUs that are cut already"),
        ("slurmext slice list -P -o JobID,UUID,GPUUUID", "for a script; a share has no UUID of its own"),
    ],
)
@click.option("-u", "--user", metavar="USER", help="Only this user's (root and SlurmUser).")
@click.option("--profiles", is_flag=True, help="What the GPUs can be cut into, instead.")
@output_options
@click.pass_obj
def list_slices(session: Session, output: Output, *, user: str | None, profiles: bool) -> None:
    """List slices: root sees all, others their own."""
    if profiles:
        found = session.ask("slice_profiles")["profiles"]
        output.rows(PROFILE_COLUMNS, found, empty="no GPU here can be cut (--gpu-share works on every one)")
        return
    output.rows(COLUMNS, session.ask("slices", user=user)["slices"], empty="no job has or awaits a slice")


@cli.command(
    "map",
    cls=Command,
    examples=[
        ("slurmext slice map", "every GPU in sliced use, unit by unit"),
        ("slurmext slice map --all --every 1", "all GPUs, drawn anew each second until Ctrl-C"),
        ("slurmext slice map --json", "as data, with how fragmented the free parts are"),
    ],
)
@click.option("-a", "--all", "show_all", is_flag=True, help="GPUs in whole use as well.")
@click.option("--every", type=click.FloatRange(min=0.2), metavar="SECONDS", help="Draw it anew so often.")
@json_option
@click.pass_obj
def show_map(session: Session, *, as_json: bool, show_all: bool, every: float | None) -> None:
    """Draw each GPU's memory units (of a shared one its percent) with who sits where.

    `[12 2g.20gb]` is job 12's, `[warm 1g.10gb]` an instance that is kept for the next job, `·` free, and `-` what
    nobody can have, as no memory or no compute slice goes with it.

    You see your own jobs by number. Of others' you see that a place is taken and how large it is, as sinfo tells of
    whole GPUs, and neither job nor user nor memory limit; root and SlurmUser see everything.
    """
    if as_json:
        print_json(session.ask("slice_map"))
        return
    screen = console()
    if every is None:
        screen.print(drawn(session.ask("slice_map"), show_all=show_all, columns=screen.width))
        return
    with contextlib.suppress(KeyboardInterrupt), frames(screen, show_all=show_all) as show:
        while True:
            show(session.ask("slice_map"))
            time.sleep(every)


@cli.command(
    "history",
    cls=Command,
    examples=[
        ("slurmext slice history --since today", "slices of today, with how long making them took"),
        (
            "slurmext slice history --job 41 -o Reserved,Node,State,Why",
            "of one job, missed ones with what the node said",
        ),
        ("slurmext slice history --json", "every field of the newest 1,000, for a script"),
    ],
)
@click.option("-j", "--job", metavar="JOB", shell_complete=complete_job, help="Only this job.")
@click.option("-u", "--user", metavar="USER", help="Only this user's (root and SlurmUser).")
@click.option("--since", metavar="TIME", help="From then on: 2h, 3d, today, 2026-11-21.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most the newest so many."
)
@output_options
@click.pass_obj
def history(
    session: Session, output: Output, *, job: str | None, user: str | None, since: str | None, limit: int
) -> None:
    """List slices that were and are, oldest first: root sees all, others their own."""
    since_s = None if since is None else parse_since(since, session.now())
    answer = session.ask("slice_history", job=job, user=user, since_s=since_s, limit=limit)
    output.rows(HISTORY_COLUMNS, answer["slices"], empty="there were no slices")


@cli.command(
    "advise",
    cls=Command,
    examples=[
        ("slurmext slice advise 41", "which size job 41 would have done with"),
        ("slurmext slice advise --since 7d", "the same for your last jobs"),
    ],
)
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("-u", "--user", metavar="USER", help="Only this user's jobs (root and SlurmUser).")
@click.option("--since", metavar="TIME", help="Of jobs from then on: 2h, 3d, today, 2026-11-21.")
@output_options
@click.pass_obj
def advise(session: Session, output: Output, *, job: str | None, user: str | None, since: str | None) -> None:
    """Say which size would have done, from the GPU memory and SMs that were used.

    While a job has a slice, its node's agent asks the driver every 10 seconds how much GPU memory its processes use
    together and how busy the slice's multiprocessors (SMs) are. PeakMemory is the most that was seen; SMMean and SMPeak
    are empty where the card does not tell (MIG before Hopper, MPS shares). AskFor is the smallest slice with a tenth
    more memory than the peak and, where SMs were measured, with as many as were busy on average; a slice that was busy
    for 90 % or more is not made smaller. Where they were not measured it goes by memory alone, and Because says so. A
    share keeps its percentage. Of several nodes the one that used most counts. Of a job that was too short, or used no
    GPU, it says so.
    """
    since_s = None if since is None else parse_since(since, session.now())
    answer: dict[str, Any] = session.ask("slice_advise", job=job, user=user, since_s=since_s)
    output.rows(ADVICE_COLUMNS, answer["advice"], empty="nothing was measured of your jobs on parts of GPUs")
