"""Runs every benchmark and writes docs/benchmarks.md: machine, versions, date, and each one's table and figures.

`python tests/benchmarks/run_all.py [--quick | --long]`; --quick is handed to each benchmark. With --long the day on a
real Slurm has 32 nodes and takes half an hour, else it has 8 and takes five minutes.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import slurmext

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
SHORTER = {"bench_live": ["--medium"]}
"""What is said to a benchmark unless all is asked for."""


def machine() -> str:
    """What the figures were measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory_gib:.0f} GiB of memory, Linux {platform.release()}"


def versions() -> str:
    """What was measured."""
    told = subprocess.run(["slurmctld", "-V"], check=False, capture_output=True, text=True).stdout.strip()
    return f"slurmext {slurmext.__version__}, {told or 'no Slurm'}, Python {platform.python_version()}"


def main() -> int:
    """Run all; exit code 1 when one could not measure or missed what it promises."""
    parts = [
        "# Benchmarks",
        "",
        f"Made by `{' '.join(['make bench', *sys.argv[1:]])}` on {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}: {machine()};",
        f"{versions()}. Compare ratios, which are measured side by side in one run, rather than seconds.",
    ]
    failed: list[str] = []
    given = [word for word in sys.argv[1:] if word != "--long"]
    for script in sorted(HERE.glob("bench_*.py")):
        target = script.stem.replace("_", "-")
        print(f"== {target}", flush=True)
        words = given if sys.argv[1:] else SHORTER.get(script.stem, [])
        done = subprocess.run([sys.executable, str(script), *words], stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        lines = done.stdout.rstrip().splitlines()
        if done.returncode != 0:
            failed.append(target)
        try:
            figures = json.loads(lines.pop()) if lines else {}
        except ValueError:
            failed.append(target)
            continue
        parts += ["", f"## {target}", "", "```text", *"\n".join(lines).strip("\n").splitlines(), "```", ""]
        pictures = sorted((PAGE.parent / "img").glob(f"{target}-*.png"))
        parts += [line for path in pictures for line in (f"![{path.stem}](img/{path.name})", "")]
        parts += [f"- `{key}`: {value}" for key, value in figures.items() if key not in done.stdout.partition("{")[0]]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")
    if failed:
        print(f"could not measure, or missed: {', '.join(dict.fromkeys(failed))}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
