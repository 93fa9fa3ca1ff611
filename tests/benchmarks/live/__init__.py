"""Parts of bench_live: what runs, on Slurm and simulated, and the comparison."""
