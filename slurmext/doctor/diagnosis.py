"""All rules over the facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.doctor import rules, rules_checkpoints, rules_installation, rules_slices, rules_staging
from slurmext.doctor.rules import Finding, Severity

if TYPE_CHECKING:
    from slurmext.doctor.facts import Facts

RULES = (*rules_installation.RULES, *rules.RULES, *rules_slices.RULES, *rules_checkpoints.RULES, *rules_staging.RULES)

_LOOKED_AT = {
    "guaranteed_gpus": "the policy in the state database",
    "cluster_gpus": "Slurm's nodes",
    "job_submit_is_ours": "job_submit.lua",
    "plugin_listed": "plugstack.conf",
    "run_dir": "the run directory",
    "submit_wake": "submit-wake",
    "queues_tsv": "queues.tsv",
    "heartbeat_age_s": "the heartbeat",
}


def unseen(facts: Facts) -> list[str]:
    """What the rules would look at and could not: that nothing is found there says nothing."""
    return [what for name, what in _LOOKED_AT.items() if getattr(facts, name) is None]


def diagnose(facts: Facts) -> list[Finding]:
    """Every finding, the worst first."""
    order = list(Severity)
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: order.index(finding.severity))
