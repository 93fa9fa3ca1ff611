"""docs/reference/reasons.md: every reason code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.cli.reasons import LEAVING, PENDING, Words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurmext.model.plan import Reason

HEAD = """\
# Reason codes

Every job that waits has exactly one reason, and every job that must leave has one. The codes are stable; `slurmext job
list` shows them, `slurmext job explain JOB` says them in words with the numbers of the job at hand.
"""


def page() -> str:
    """The page's text."""
    return (
        HEAD
        + "\n## Why a job waits\n"
        + "".join(_entries(PENDING, "The job waits because"))
        + "\n## Why a job must leave\n"
        + "".join(_entries(LEAVING, "The job leaves because"))
    )


def _entries(words: Mapping[Reason, Words], opening: str) -> Iterator[str]:
    for reason, text in words.items():
        yield f"\n### {reason.value}\n\n{opening} {text.meaning}.\n\n{text.remedy}\n"
