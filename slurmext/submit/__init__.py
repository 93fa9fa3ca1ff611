"""Submitting from Python: keyword arguments that become extended sbatch options.

Imports only `slurmext.options` and `slurmext.errors`.
"""
