"""What `slurmext simulate` and `slurmext policy diff --simulate` share: the world's options, running, tables."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from slurmext.cli.render import Column, Output
from slurmext.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from slurmext.config.policy import SitePolicy
    from slurmext.model.plan import Plan
    from slurmext.model.queue import Queue
    from slurmext.model.snapshot import Snapshot
    from slurmext.simulate.report import Report
    from slurmext.simulate.timetable import QueuesAt, Timetable
    from slurmext.simulate.whatif import Observer, Question
    from slurmext.simulate.workload import TraceJob

TOTAL = (
    Column(key="way", title="Way"),
    Column(key="util", title="Util", right=True),
    Column(key="wait_mean_s", title="WaitMean", right=True),
    Column(key="wait_p95_s", title="WaitP95", right=True),
    Column(key="wait_gpu_mean_s", title="WaitPerGpu", right=True, shown=False),
    Column(key="evictions", title="Evictions", right=True),
    Column(key="moves", title="Moves", right=True, shown=False),
    Column(key="lost_gpu_h", title="LostGpuH", right=True),
    Column(key="longest_reclaim_s", title="Reclaim", right=True),
    Column(key="longest_guaranteed_s", title="GuaranteedWait", right=True, shown=False),
    Column(key="breaches", title="Breaches", right=True),
    Column(key="fairness", title="Fairness", right=True),
    Column(key="jobs", title="Jobs", right=True, shown=False),
    Column(key="never_started", title="NeverStarted", right=True, shown=False),
    Column(key="plans", title="Plans", right=True, shown=False),
)
QUEUES = (
    Column(key="queue", title="Queue"),
    Column(key="guaranteed", title="Guaranteed", right=True),
    Column(key="used_gpus", title="Used", right=True),
    Column(key="borrowed_gpus", title="Borrowed", right=True),
    Column(key="jobs", title="Jobs", right=True, shown=False),
    Column(key="wait_mean_s", title="WaitMean", right=True),
    Column(key="wait_p95_s", title="WaitP95", right=True),
    Column(key="wait_gpu_mean_s", title="WaitPerGpu", right=True, shown=False),
    Column(key="evictions", title="Evictions", right=True),
    Column(key="moves", title="Moves", right=True, shown=False),
    Column(key="lost_gpu_h", title="LostGpuH", right=True),
    Column(key="longest_reclaim_s", title="Reclaim", right=True, shown=False),
    Column(key="longest_guaranteed_s", title="GuaranteedWait", right=True, shown=False),
    Column(key="breaches", title="Breaches", right=True),
    Column(key="of_fair_share", title="OfFairShare", right=True, shown=False),
)
_DIGITS = {"util": 3, "fairness": 3, "of_fair_share": 3, "used_gpus": 1, "borrowed_gpus": 1, "lost_gpu_h": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The options of the world, as given."""

    days: float | None
    speedup: float
    scale_nodes: float
    save_s: float
    restart_s: float
    checkpoint_every: float
    requeue_delay_s: float
    fail: tuple[str, ...]
    fail_every_days: float | None
    repair_hours: float
    seed: int
    tick_s: float
    plot: Path | None


def world_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the function gets them as `knobs`."""
    seconds = click.FloatRange(0)
    options = (
        click.option("--days", type=click.FloatRange(0, min_open=True), help="Only the first so many days."),
        click.option(
            "--speedup", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
            help="Jobs come so many times as fast, each as long as before: more load.",
        ),
        click.option(
            "--scale-nodes", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
            help="That part of the nodes of each type; 1.5: half as many again. The policy stays as it is.",
        ),
        click.option("--save-s", type=seconds, default=20.0, show_default=True, help="Seconds a victim saves."),
        click.option("--restart-s", type=seconds, default=30.0, show_default=True, help="Seconds a restart costs."),
        click.option(
            "--checkpoint-every", type=seconds, default=3600.0, show_default=True, metavar="SECONDS",
            help="Time between periodic checkpoints; 0: none.",
        ),
        click.option(
            "--requeue-delay-s", type=seconds, default=3.0, show_default=True,
            help="Seconds before a victim may start again.",
        ),
        click.option(
            "--fail", multiple=True, metavar="NODE@HOURS+HOURS", help="A node fails after so long, for so long."
        ),
        click.option(
            "--fail-every-days", type=click.FloatRange(0, min_open=True),
            help="Every node fails once in so many days on average, at random.",
        ),
        click.option(
            "--repair-hours", type=click.FloatRange(0, min_open=True), default=4.0, show_default=True,
            help="How long a node is out of use then.",
        ),
        click.option("--seed", type=int, default=1, show_default=True, help="Chooses the random failures."),
        click.option(
            "--tick-s", type=seconds, default=0.0, show_default=True, help="Time between plans while jobs wait."
        ),
        click.option(
            "--plot", type=click.Path(path_type=Path), metavar="FILE",
            help="Draw it: FILE.png, FILE.svg, or FILE.html, one page with the figures. Needs slurmext[plot].",
        ),
    )  # fmt: skip
    names = tuple(Knobs.__dataclass_fields__)

    @functools.wraps(function)
    def wrapped(*args: Any, **more: Any) -> Any:
        knobs = Knobs(**{name: more.pop(name) for name in names})
        if knobs.plot is not None:  # before minutes are spent on what cannot be drawn
            from slurmext.simulate.plot import check_path, need_matplotlib

            check_path(knobs.plot)
            need_matplotlib()
        return function(*args, knobs=knobs, **more)

    return functools.reduce(lambda made, option: option(made), reversed(options), wrapped)


def apply_knobs(question: Question, knobs: Knobs) -> Question:
    """The question with what the options say of jobs, nodes and the world. Raises UsageError."""
    from slurmext.simulate import whatif
    from slurmext.simulate.world import World, failure, random_failures

    jobs = question.jobs if knobs.days is None else whatif.first_days(question.jobs, knobs.days)
    if knobs.speedup != 1:
        jobs = whatif.faster(jobs, knobs.speedup)
    nodes = whatif.scaled(question.nodes, knobs.scale_nodes) if knobs.scale_nodes != 1 else question.nodes
    question = whatif.without_lost_nodes(replace(question, jobs=jobs, nodes=nodes))
    if not question.jobs and not question.running:
        raise UsageError("there is nothing to simulate: no job of the trace is left; give more --days")
    names = [node.name for node in nodes]
    failures = tuple(failure(text, names) for text in knobs.fail)
    if knobs.fail_every_days is not None:
        lasting = [job.submit_s + job.duration_s for job in (*question.jobs, *(job for job, _ in question.running))]
        failures += random_failures(
            names,
            days_between=knobs.fail_every_days,
            out_s=knobs.repair_hours * 3600,
            until_s=float(max(lasting)),
            seed=knobs.seed,
        )
    world = World(
        save_s=knobs.save_s,
        restart_s=knobs.restart_s,
        checkpoint_every_s=knobs.checkpoint_every or None,
        requeue_delay_s=knobs.requeue_delay_s,
        tick_s=knobs.tick_s,
        failures=failures,
    )
    return replace(question, world=world)


def _grouped(job: TraceJob, groups: Collection[str]) -> TraceJob:
    return replace(job, groups=" ".join(sorted(groups))) if groups else job


def placed(policy: SitePolicy, jobs: Sequence[TraceJob]) -> tuple[SitePolicy, list[TraceJob]]:
    """The jobs in the policy's queues, by its placement rules where the trace names no queue of it.

    A job's queue in the trace counts as its account; users' groups are those of this host, where the trace has none.
    Queues that come into being by a job are in the policy returned.
    """
    from slurmext.adapters.unix_groups import UnixGroups
    from slurmext.simulate.whatif import fitted

    model = policy.as_model(1)
    groups_of = UnixGroups() if model.asks_groups else lambda _user: ()
    limited = {group for queue in (*model.queues, *model.dynamic.values()) for group in queue.groups}

    def queue_of(job: TraceJob) -> str | None:
        if model.dynamic_queue(job.queue) is not None:
            return job.queue
        return model.queue_of(asked=None, user=job.user, account=job.queue, partition="", groups=groups_of(job.user))

    leaves = set(policy.by_path)
    if limited:
        jobs = [job if job.groups else _grouped(job, limited.intersection(groups_of(job.user))) for job in jobs]
    found = fitted(jobs, leaves, queue_of, lambda path: model.dynamic_queue(path) is not None)
    return policy.including({job.queue for job in found} - leaves), found


def timetable(policy: SitePolicy, paths: Iterable[str], start_s: float | None) -> Timetable:
    """What the policy does at certain times of the trace, which begins at `start_s` (Unix time).

    Raises UsageError when nobody said when the trace begins and it matters.
    """
    from slurmext.simulate.timetable import Tidy, Timetable

    model = policy.as_model(1)
    calendars, schedule = bool(policy.schedule.calendar.windows), model.defragment_schedule
    if start_s is None:
        if calendars or schedule is not None:
            what = "calendars" if calendars else "a time for defragmentation"
            raise UsageError(f"the policy has {what}; say when the trace begins, for example --start 2026-11-02T00:00")
        return Timetable(half_life_s=model.half_life_s)
    tidy = None if schedule is None else Tidy(wish=model.defragment, after=_next(schedule, policy, start_s))
    queues_at = _queues_at(policy, set(paths), start_s) if calendars else None
    return Timetable(queues_at=queues_at, tidy=tidy, half_life_s=model.half_life_s)


def _next(schedule: str, policy: SitePolicy, start_s: float) -> Callable[[float], float | None]:
    from slurmext.config.calendar import cron, fires

    trigger = cron(schedule, policy.schedule.zone)

    def after(now_s: float) -> float | None:
        found = next(fires(trigger, start_s + now_s + 1), None)
        return None if found is None else found - start_s

    return after


def _queues_at(policy: SitePolicy, paths: set[str], start_s: float) -> QueuesAt:
    def queues_at(now_s: float) -> tuple[tuple[Queue, ...], float | None]:
        queues = policy.at(start_s + now_s).including(paths).queues
        shifted = tuple(
            replace(queue, changes=tuple(replace(change, at_s=change.at_s - start_s) for change in queue.changes))
            for queue in queues
        )
        changes = [float(queue.changes[0].at_s) for queue in shifted if queue.changes]
        return shifted, min(changes, default=None)

    return queues_at


def moment(text: str | None, policy: SitePolicy | None) -> float | None:
    """`2026-11-02T00:00` in the policy's time zone, as Unix time. Raises UsageError."""
    import datetime as dt

    if text is None:
        return None
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--start: {text!r} is no time; for example 2026-11-02T00:00") from error
    zone = policy.schedule.zone if policy is not None else dt.UTC
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=zone)).timestamp()


class Progress:
    """A bar on standard error, where a person looks, that follows the simulated time."""

    def __init__(self, way: str, question: Question) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._end_s = max(1.0, question.last_submit_s)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(way, total=self._end_s, now="")
        self._plans = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def look(self, snapshot: Snapshot, _made: Plan) -> None:
        """One plan more."""
        self._plans += 1
        if self._plans % 100 == 0:
            days, total = snapshot.now_s / 86400, self._end_s / 86400
            self._bar.update(
                self._task, completed=min(snapshot.now_s, self._end_s), now=f"day {days:.1f} of {total:.1f}"
            )


def watched(
    way: str, question: Question, play: Callable[[Observer], Report], monitor: Observer | None = None
) -> Report:
    """Run with a bar, and with a monitor of the planner's laws if there is one."""
    with Progress(way, question) as bar:

        def look(snapshot: Snapshot, made: Plan) -> None:
            bar.look(snapshot, made)
            if monitor is not None:
                monitor(snapshot, made)

        return play(look)


def law_monitor(broken: list[str]) -> Observer:
    """Collects broken laws, of single plans and over time."""
    from slurmext.policy.invariants import Watch
    from slurmext.policy.invariants.over_time import look_of

    watch = Watch()

    def look(snapshot: Snapshot, made: Plan) -> None:
        broken.extend(f"at {snapshot.now_s:.0f} s: {problem}" for problem in watch.look(look_of(snapshot, made)))

    return look


def warn(question: Question, queues: Sequence[Queue], reports: Mapping[str, Report]) -> None:
    """What a reader must know to take the figures right, on standard error."""
    from slurmext.simulate.whatif import promises_too_much

    over = promises_too_much(queues, question.nodes)
    if over:
        click.echo(f"note: the policy guarantees {over} GPUs more than the nodes have; those cannot be kept", err=True)
    for way, made in reports.items():
        if made.never_started:
            click.echo(f"note: {made.never_started} jobs never start under {way}; they are in no wait", err=True)


def draw(knobs: Knobs, reports: Mapping[str, Report], title: str, queues_of: str | None = None) -> None:
    """The picture that was asked for."""
    if knobs.plot is not None:
        from slurmext.simulate.plot import draw as draw_plot

        draw_plot(knobs.plot, reports, title=title, queues_of=queues_of)
        click.echo(f"{knobs.plot}: drawn", err=True)


Table = tuple[Sequence[Column], Sequence[dict[str, Any]]]


def show(output: Output, *tables: Table) -> None:
    """All tables; with -o the one that has these fields, else the last."""
    if output.fields is None:
        for number, (columns, rows) in enumerate(tables):
            if number:
                click.echo()
            output.rows(columns, rows)
        return
    asked = {field.split("%")[0].strip().lower() for field in output.fields.split(",") if field.strip()}
    for columns, rows in tables:
        names = {name.lower() for column in columns for name in (column.key, column.title)}
        if asked <= names or columns is tables[-1][0]:
            output.rows(columns, rows)
            return


def totals(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """A row for each way."""
    return [{"way": way, **rounded(made)} for way, made in reports.items()]


def rounded(row: Any) -> dict[str, Any]:
    """Numbers as tables show them."""
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return {
        key: (f"{value:.{_DIGITS.get(key, 0)}f}" if isinstance(value, float) else value)
        for key, value in values.items()
    }


def as_json(made: Report) -> dict[str, Any]:
    """A report as JSON has it: numbers short, nothing that JSON cannot say."""
    return _finite(asdict(made))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value
