"""Pictures of a what-if: the cluster over time in each way, and every queue in one of them."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurmext.errors import SlurmextError, UsageError

if TYPE_CHECKING:
    from slurmext.simulate.report import Report, Series

FORMATS = ("png", "svg", "html")
MOST_QUEUES = 12
"""Queues that get a picture of their own, those that used most; tables have all."""

# Okabe and Ito's colours, told apart by everybody; with a line style each, for printing in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_WITHIN, _BORROWED, _WAITING = "#56B4E9", "#E69F00", "#A0007A"
_DAYS_FROM_S = 4 * 86400.0


def check_path(path: Path) -> str:
    """The kind of picture that the file's name asks for. Raises UsageError."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise UsageError(f"{path}: a plot's name ends in .{', .'.join(FORMATS)}; for example plot.png")
    return kind


def draw(
    path: Path, reports: Mapping[str, Report], *, title: str, queues_of: str | None = None, dpi: int = 110
) -> None:
    """Write the picture: PNG, SVG, or an HTML page in one file with the figures under it.

    Queues are drawn for one way, the first unless `queues_of` names another.

    Raises UsageError when the name or the folder does not do, SlurmextError without matplotlib.
    """
    kind = check_path(path)
    figure = _figure(reports, title, queues_of)
    try:
        if kind == "html":
            path.write_text(_page(_svg(figure), reports, title), encoding="utf-8")
        else:
            figure.savefig(path, format=kind, dpi=dpi)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def need_matplotlib() -> Any:
    """Matplotlib's Figure, which draws without a display. Raises SlurmextError that names the extra."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  only for pictures
    except ImportError as error:
        raise SlurmextError("plots need matplotlib; install it with: pip install 'slurmext[plot]'") from error
    return Figure


def _figure(reports: Mapping[str, Report], title: str, queues_of: str | None) -> Any:
    name = next(iter(reports)) if queues_of is None else queues_of
    shown = reports[name]
    queues = sorted((q for q in shown.queues if q.jobs or q.guaranteed), key=lambda q: -q.used_gpus)[:MOST_QUEUES]
    queues.sort(key=lambda queue: queue.queue)
    rows = (len(queues) + 2) // 3
    figure = need_matplotlib()(figsize=(14, 9.5 + 2.6 * rows), layout="constrained")
    figure.suptitle(title, fontsize=14)
    above, below = figure.subfigures(2, 1, height_ratios=(9.0, 2.6 * rows + 0.5)) if queues else (figure, None)
    span_s = shown.window_s[1] - shown.window_s[0]
    unit_s, unit = (86400.0, "days") if span_s >= _DAYS_FROM_S else (3600.0, "hours")
    _cluster(above, reports, unit_s, unit)
    if below is not None:
        most = f", the {MOST_QUEUES} that used most" if len(queues) < len(shown.queues) else ""
        below.suptitle(f"Queues under {name}{most}", fontsize=12)
        _queues(below, shown.series, [queue.queue for queue in queues], rows, unit_s, unit)
    return figure


def _cluster(figure: Any, reports: Mapping[str, Report], unit_s: float, unit: str) -> None:
    panels = figure.subplots(2, 2, sharex=True)
    drawn = (
        (panels[0][0], "GPUs in use", "% of working GPUs", lambda s: [100 * value for value in s.util]),
        (panels[0][1], "Waiting", "GPUs asked for", lambda s: s.waiting_gpus),
        (panels[1][0], "Evictions so far", "jobs evicted, shrunk or moved", lambda s: _running_sum(s.evictions)),
        (panels[1][1], "Fairness", "Jain's index of fair shares got", lambda s: s.fairness),
    )
    for axes, heading, label, values in drawn:
        for number, (way, made) in enumerate(reports.items()):
            times = _times(made.series, unit_s)
            style = {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _STYLES[number % len(_STYLES)]}
            points = [float("nan") if value is None else value for value in values(made.series)]
            axes.plot(times, points, label=way, linewidth=1.2 if number else 1.8, **style)
        axes.set_title(heading, fontsize=11)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    panels[0][0].set_ylim(0, 105)
    indices = [value for made in reports.values() for value in made.series.fairness if value is not None]
    panels[1][1].set_ylim(max(0.0, int(min(indices, default=0.0) * 10 - 1) / 10), 1.02)
    # Partitions may drag on for weeks after the last submission: what matters is before.
    first_s, last_s = next(iter(reports.values())).window_s
    panels[0][0].set_xlim(0, 1.1 * (last_s - first_s) / unit_s)
    for axes in panels[1]:
        axes.set_xlabel(f"{unit} from the first submission")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _queues(figure: Any, series: Series, queues: Sequence[str], rows: int, unit_s: float, unit: str) -> None:
    panels = figure.subplots(rows, 3, sharex=True, squeeze=False)
    times = _times(series, unit_s)
    for number, axes in enumerate(axes for row in panels for axes in row):
        if number >= len(queues):
            axes.set_axis_off()
            continue
        found = series.queues[queues[number]]
        axes.stackplot(
            times,
            found.within,
            found.borrowed,
            colors=(_WITHIN, _BORROWED),
            labels=("used within the guarantee", "borrowed"),
            step="post",
        )
        axes.plot(times, found.guaranteed, color="black", linewidth=1.2, label="guaranteed", drawstyle="steps-post")
        axes.plot(times, found.waiting_gpus, color=_WAITING, linewidth=1.0, linestyle="--", label="waiting")
        busiest = max([*found.guaranteed, *(w + b for w, b in zip(found.within, found.borrowed, strict=True)), 1])
        axes.set_ylim(0, 1.6 * busiest)  # who waits by the thousand must not flatten the rest
        axes.set_title(queues[number], fontsize=10)
        axes.grid(alpha=0.3)
        if number % 3 == 0:
            axes.set_ylabel("GPUs")
        if number + 3 >= len(queues):
            axes.set_xlabel(unit)
            axes.tick_params(labelbottom=True)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _times(series: Series, unit_s: float) -> list[float]:
    return [number * series.bucket_s / unit_s for number in range(len(series.util))]


def _running_sum(counts: Sequence[int]) -> list[int]:
    total, found = 0, list[int]()
    for count in counts:
        total += count
        found.append(total)
    return found


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; color: #222; background: #fff; }
svg { width: 100%; height: auto; } table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd; } th:first-child, td:first-child {
text-align: left; } caption { text-align: left; font-weight: bold; padding: .5em 0; }
"""
_TOTAL = {
    "util": ("GPUs in use", ".1%"),
    "wait_mean_s": ("mean wait (s)", ",.0f"),
    "wait_p95_s": ("95 % wait less than (s)", ",.0f"),
    "evictions": ("evictions", ",d"),
    "lost_gpu_h": ("lost GPU-hours", ",.1f"),
    "longest_guaranteed_s": ("longest wait within a guarantee (s)", ",.0f"),
    "breaches": ("guarantees broken", ",d"),
    "fairness": ("fairness", ".3f"),
}
_QUEUE = {
    "guaranteed": ("guaranteed GPUs", ",d"),
    "used_gpus": ("GPUs in use", ",.1f"),
    "borrowed_gpus": ("of these borrowed", ",.1f"),
    "jobs": ("jobs", ",d"),
    "wait_mean_s": ("mean wait (s)", ",.0f"),
    "wait_p95_s": ("95 % wait less than (s)", ",.0f"),
    "evictions": ("evictions", ",d"),
    "lost_gpu_h": ("lost GPU-hours", ",.1f"),
    "breaches": ("guarantees broken", ",d"),
}


def _page(svg: str, reports: Mapping[str, Report], title: str) -> str:
    tables = [_table("The cluster", "way", [(way, made) for way, made in reports.items()], _TOTAL)]
    for way, made in reports.items():
        tables.append(_table(f"Queues under {way}", "queue", [(q.queue, q) for q in made.queues], _QUEUE))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>\n{svg}\n{''.join(tables)}</body></html>\n"
    )


def _table(caption: str, first: str, rows: Sequence[tuple[str, Any]], columns: Mapping[str, tuple[str, str]]) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in (first, *(c[0] for c in columns.values())))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{getattr(row, key):{form}}</td>" for key, (_, form) in columns.items())
        + "</tr>"
        for name, row in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>\n"
