"""Effects: one package per outside system (Slurm's commands, SQL, TCP, munge), each implementing a port.

May import ports, model, config and errors; knows nothing of decisions.
"""
