"""MPS shares: a control daemon of its own for each share, limits on the server's side, memory watched over the job.

`control` (the program nvidia-cuda-mps-control), `folders` (who may reach a share's pipes), `shares` (made and taken
away), `police` (jobs that use more memory than their share has). Only `slurmext.agent` uses these.
"""
