"""Decides, and nothing else: `planner.plan(snapshot) -> Plan` is pure, total and deterministic.

tree (quota) - ledger (usage at every level) - supply and placement (GPUs on nodes) - order (who is asked next) -
admission, reclaim, consolidate (what may be done for a job) - planner (the whole) - explain and invariants (why, and
what must always hold). May import `slurmext.model` only; no clock, no randomness, no I/O.
"""
