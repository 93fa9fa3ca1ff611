"""docs/reference/scenarios.md: what the planner does in every situation that a scenario describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slurmext.testing import scenario, slice_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurmext.testing.scenario import Scenario
    from slurmext.testing.slice_scenario import SliceScenario

SCENARIOS = Path(__file__).parent.parent.parent / "tests" / "scenario"

HEAD = """\
# Scenarios

What slurmext does with whom, situation by situation: {count} small clusters, each a test that runs with `make test`.
The files have the nodes, queues and jobs of each and what must come of it; how to read and write them is in
[slurmext/testing/scenario.py](../../slurmext/testing/scenario.py), for slices in
[slurmext/testing/slice_scenario.py](../../slurmext/testing/slice_scenario.py).

Beside what a scenario expects, every one of them is checked for the laws of the planner (no queue above its max, none
pushed below its guarantee, no eviction that starts nobody, …), for the same plan however often and in whatever order
the same world is looked at, for nothing more being done while victims are on their way out, and for coming to rest.
"""


def page() -> str:
    """The page's text."""
    themes: dict[Path, Sequence[Scenario | SliceScenario]] = {
        path: scenario.load(path) for path in sorted(SCENARIOS.glob("*.yaml"))
    }
    themes |= {path: slice_scenario.load(path) for path in sorted(SCENARIOS.glob("slices/*.yaml"))}
    count = sum(len(scenarios) for scenarios in themes.values())
    return HEAD.format(count=count) + "".join(_section(path, scenarios) for path, scenarios in themes.items())


def _section(path: Path, scenarios: Sequence[Scenario | SliceScenario]) -> str:
    about = " ".join(line.lstrip("# ").strip() for line in _opening(path.read_text(encoding="utf-8")))
    where = path.relative_to(SCENARIOS)
    name = " ".join(where.with_suffix("").parts).replace("_", " ")
    items = "".join(f"- {_sentence(each.name)}\n" for each in scenarios)
    return f"\n## [{_sentence(name)}](../../tests/scenario/{where.as_posix()})\n\n{about}\n\n{items}"


def _opening(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def _sentence(name: str) -> str:
    return name[0].upper() + name[1:]
