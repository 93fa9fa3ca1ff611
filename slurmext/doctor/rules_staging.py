"""Rules about the models of --preload: how long a prolog may wait for them. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slurmext.agent.staging.limits import LEFT_S
from slurmext.doctor.rules import INFINITE_S, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.doctor.facts import Facts


def _limit(facts: Facts) -> tuple[str, int] | None:
    """What ends a prolog first, and after how many seconds; None when nothing does."""
    known = ((name, facts.number(name)) for name in ("PrologTimeout", "PrologEpilogTimeout"))
    finite = [(seconds, name) for name, seconds in known if seconds is not None and seconds < INFINITE_S]
    return (min(finite)[1], min(finite)[0]) if finite else None


def prolog_wait(facts: Facts) -> Iterator[Finding]:
    """An agent waits no longer than Slurm lets a prolog run, and a batch job begin: it would drain the node, or take
    the job for lost and requeue it.
    """
    if facts.prolog_wait_s is None:
        return
    limits = [(*limit, LEFT_S)] if (limit := _limit(facts)) is not None else []
    begun_s = facts.number("BatchStartTimeout")
    limits += [("BatchStartTimeout", begun_s, 0.0)] if begun_s is not None else []
    for name, seconds, spare_s in limits:
        left_s = max(0.0, seconds - spare_s)
        if left_s >= facts.prolog_wait_s:
            continue
        yield Finding(
            code="PRELOAD_WAIT", severity=Severity.NOTE if left_s else Severity.WARNING,
            found=f"{name}={seconds} with staging.prolog_wait_s={facts.prolog_wait_s:g} in slurmext.yaml",
            effect=f"a prolog waits {left_s:g} s for its job's models, then the job reads from storage what is missing"
            if left_s else "no prolog waits for its job's models: what is not there yet, the job reads from storage",
            line=f"{name}={math.ceil(facts.prolog_wait_s + spare_s)}   (then slurmext install on the nodes)",
            file=str(facts.slurm_conf),
        )  # fmt: skip


def prolog_hook(facts: Facts) -> Iterator[Finding]:
    """The prolog that was installed knows how long Slurm waited then."""
    limit = _limit(facts)
    if limit is None or facts.preload_hook_s is None or facts.preload_hook_s < limit[1]:
        return
    yield Finding(
        code="PRELOAD_HOOK", severity=Severity.ERROR,
        found=f"the installed prolog waits {facts.preload_hook_s:g} s for models, Slurm ends it after {limit[1]} s "
        f"({limit[0]})",
        effect="when an agent hangs, Slurm ends the prolog of a job with models and drains the node",
        line="slurmext install --role node   (writes the hooks anew)",
    )  # fmt: skip


RULES = (prolog_wait, prolog_hook)
