"""All rules over the facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.doctor import rules, rules_checkpoints, rules_installation, rules_slices, rules_staging
from slurmext.doctor.rules import Finding, Severity

if TYPE_CHECKING:
    from slurmext.doctor.facts import Facts

RULES = (*rules_installation.RULES, *rules.RULES, *rules_slices.RULES, *rules_checkpoints.RULES, *rules_staging.RULES)


def diagnose(facts: Facts) -> list[Finding]:
    """Every finding, the worst first."""
    order = list(Severity)
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: order.index(finding.severity))
