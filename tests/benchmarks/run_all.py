"""Runs every benchmark and writes docs/benchmarks.md: machine, versions, date, and each one's table and figures."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"


def main() -> int:
    """Run all, with the arguments given to each; exit code 1 when one could not measure."""
    parts = [
        "# Benchmarks",
        "",
        "Made by `make bench`. Compare ratios, which are measured side by side in one run, rather than seconds.",
        "",
        (
            f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()},"
            f" Linux {platform.release()}, Python {platform.python_version()}."
        ),
    ]
    failed = []
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"== {script.stem}", flush=True)
        done = subprocess.run(
            [sys.executable, str(script), *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=False
        )
        print(done.stdout, flush=True)
        lines = done.stdout.rstrip().splitlines()
        if done.returncode != 0 or not lines:
            failed.append(script.stem)
            continue
        parts += ["", f"## {script.stem.replace('_', '-')}", "", "```text", *lines[:-1], "```"]
        try:
            figures = json.loads(lines[-1])
        except ValueError:
            failed.append(script.stem)
            continue
        parts += ["", *(f"- `{key}`: {value}" for key, value in figures.items())]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")
    if failed:
        print(f"could not measure: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
