"""What Slurm's Prolog, Epilog and TaskProlog run: one client, started by the wrappers in `prolog/` and `epilog/`.

`client.py` is a single file of the standard library, run by the system's Python with `-I -S`: it works where slurmext
is not installed and starts fast. It asks the node's agent and fails open. Imports nothing of the package.
"""
