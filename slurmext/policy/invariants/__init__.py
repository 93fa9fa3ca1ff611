"""The laws of the contract, executable: over a snapshot and its plan, and over a sequence of such steps (over_time.py).

They are written the slow and obvious way, apart from the planner's own search and indexes, so that a mistake there
shows here. Tests call `violations`; simulation and the monitor on a live cluster keep a `Watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.invariants.capping import caps_are_used, never_above_caps
from slurmext.policy.invariants.case import Case
from slurmext.policy.invariants.departing import cuts_are_complete, cuts_are_minimal, departures_are_due
from slurmext.policy.invariants.draining import nobody_in_the_way
from slurmext.policy.invariants.leaving import (
    defragmentation_pays,
    every_beneficiary_fits,
    gangs_stay_whole,
    guarantees_kept,
    no_spare_victim,
    spared_jobs_untouched,
    takers_have_a_claim,
)
from slurmext.policy.invariants.over_time import Look, OverTime
from slurmext.policy.invariants.serving import guaranteed_demand_is_served, work_conserving
from slurmext.policy.invariants.starting import (
    headroom_is_left,
    never_above_max,
    no_overcommit,
    non_preemptible_within_guarantee,
    one_reason_each,
    placements_fit_the_job,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A broken law: its name, and what breaks it."""

    law: str
    detail: str

    def __str__(self) -> str:
        return f"{self.law}: {self.detail}"


def violations(snapshot: Snapshot, made: Plan) -> list[Violation]:
    """Every law that the plan breaks as an answer to `snapshot`; empty when all hold."""
    case = Case(snapshot, made)
    return [Violation(law=law, detail=detail) for law, check in LAWS for detail in check(case)]


LAWS: tuple[tuple[str, Callable[[Case], Iterator[str]]], ...] = (
    ("no overcommit", no_overcommit),
    ("placements fit the job", placements_fit_the_job),
    ("never above max", never_above_max),
    ("never above caps", never_above_caps),
    ("caps are used", caps_are_used),
    ("spared jobs untouched", spared_jobs_untouched),
    ("gangs stay whole", gangs_stay_whole),
    ("no queue pushed below guaranteed", guarantees_kept),
    ("takers have a claim", takers_have_a_claim),
    ("non-preemptible within guarantee", non_preemptible_within_guarantee),
    ("every eviction starts its beneficiary", every_beneficiary_fits),
    ("minimal victims", no_spare_victim),
    ("departures are due", departures_are_due),
    ("minimal cuts", cuts_are_minimal),
    ("cuts are carried out", cuts_are_complete),
    ("nobody in the calendar's way", nobody_in_the_way),
    ("headroom is left", headroom_is_left),
    ("defragmentation pays", defragmentation_pays),
    ("work-conserving", work_conserving),
    ("guaranteed demand is served", guaranteed_demand_is_served),
    ("one reason per pending job", one_reason_each),
)
"""Name and check of each law; a check yields what breaks it."""


class Watch:
    """Checks every law on every look: those over a plan, and those over the time between looks."""

    def __init__(self) -> None:
        self._over_time = OverTime()

    def look(self, look: Look) -> list[Violation]:
        """Laws broken now; looks come in the order of time."""
        over_time = [Violation(law=law, detail=detail) for law, detail in self._over_time.look(look)]
        return violations(look.snapshot, look.plan) + over_time
