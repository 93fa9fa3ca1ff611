"""Slurm through its own commands, by named fields: `reader` observes, `actuator` acts.

Works on 22.05, 24.11 and 26.05. May import ports, model, config and errors.
"""
