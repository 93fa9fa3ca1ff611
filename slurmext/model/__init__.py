"""The values slurmext thinks with: snapshot, plan, and the records that the state store keeps.

Frozen, slotted, keyword-only dataclasses and enums; standard library only. Everything may import this; it imports
nothing of the package.
"""
