"""GPU slices on the controller's side: what is known of them, reservations, and GPUs in and out of Slurm's books.

memory (what the store remembers), world (the planner's snapshot of it), reservations and books carry a plan out and
follow what came of it, desk runs them in a cycle. May import what service may; agents and Slurm come as ports.
"""
