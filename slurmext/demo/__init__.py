"""`slurmext demo`: the main job shown on a real Slurm, and checked against Slurm's own records.

`story` runs it, `records` reads what Slurm says happened, `checks` judges. Imports devcluster; only cli imports it.
"""
