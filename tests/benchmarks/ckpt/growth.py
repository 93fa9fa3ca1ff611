"""How stall, time until durable and restore grow with the state."""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

from ckpt.state import GB, change, nbytes, new_state
from ckpt.ways import DcpCached, DcpProcess, DcpSave, Ours, TorchSave, drop_cached, timed

SIZES_GB = (0.25, 0.5, 1.0, 2.0, 4.0)
COMPARED = (Ours, TorchSave, DcpSave, DcpCached, DcpProcess)
ROUNDS = {0.25: 3, 0.5: 3, 1.0: 2, 2.0: 1, 4.0: 1}
"""Of each way, after one that warms up."""
MEMORY = 3.5
"""By the state's size, of the way that takes most: the state, its copy, and what is read back or written."""
PICTURE = Path(__file__).parents[3] / "docs" / "img" / "bench-ckpt-growth.png"
Curves = dict[str, dict[str, list[float]]]


def measure(place: Path) -> Curves:
    """By what is measured and by way, a figure for each size."""
    curves: Curves = {kind: {way.name: [] for way in COMPARED} for kind in ("stall", "durable", "restore")}
    print(f"\n{'growth, seconds':<12}" + "".join(f"{way.name:>26}" for way in COMPARED))
    print(f"{'GB':<12}" + f"{'stall durable restore':>26}" * len(COMPARED))
    for size_gb in SIZES_GB:
        if available() < MEMORY * size_gb * GB:
            print(
                f"{size_gb:<12g}left out: it takes {MEMORY:g} times as much memory, {available() / GB:.0f} GB are there"
            )
            continue
        state = new_state(size_gb * GB)
        cells = []
        for kind in COMPARED:
            folder = place / f"growth-{kind.__name__}"
            way = Ours(folder, state, snapshots=1) if kind is Ours else kind(folder, state)
            figures = [one(way, state) for _ in range(ROUNDS[size_gb] + 1)][1:]
            cold = restore(way, size_gb) if kind in {Ours, TorchSave, DcpSave} else float("nan")
            way.close()
            row = [statistics.median(values) for values in zip(*figures, strict=True)] + [cold]
            for name, value in zip(curves, row, strict=True):
                curves[name][kind.name].append(value)
            cells.append(f"{row[0]:12.3f}{row[1]:7.2f}{row[2]:7.2f}".replace("nan", "  -"))
        print(f"{nbytes(state) / GB:<12.2f}" + "".join(cells), flush=True)
        del state
    return curves


def available() -> int:
    """Bytes of memory that are to be had."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def one(way: Ours | TorchSave, state: dict) -> tuple[float, float]:
    """(stall, durable) of one save of a changed state."""
    change(state)
    way.next()
    os.sync()
    started = time.perf_counter()
    way.save()
    stall = time.perf_counter() - started
    way.finish()
    return stall, time.perf_counter() - started


def restore(way: Ours | TorchSave, size_gb: float) -> float:
    """Seconds of a cold restore."""
    way.settle()
    into = new_state(0.01 * GB) if isinstance(way, TorchSave) else new_state(size_gb * GB, seed=1)
    drop_cached(way.folder)
    return timed(lambda: way.restore(into))


def plot(curves: Curves, path: Path = PICTURE) -> None:
    """Three panels, into the documentation's pictures."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.stderr.write("no picture: pip install matplotlib\n")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4))
    for panel, (kind, ways) in zip(panels, curves.items(), strict=True):
        for name, values in ways.items():
            points = [(size, value) for size, value in zip(SIZES_GB, values, strict=False) if value == value]  # noqa: PLR0124 - not NaN
            if points:
                panel.plot(
                    *zip(*points, strict=True), marker="o", label=name, linewidth=2.5 if name == Ours.name else 1.2
                )
        panel.set(title=f"{kind} (s)", xlabel="state, GB", xscale="log", yscale="log")
        panel.set_xticks(SIZES_GB, [f"{size:g}" for size in SIZES_GB])
        panel.minorticks_off()
        panel.grid(visible=True, alpha=0.3)
    panels[2].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
