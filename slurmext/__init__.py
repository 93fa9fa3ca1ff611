"""slurmext: elastic quotas, GPU slices, checkpoint-on-signal and model preloading for Slurm."""

__version__ = "0.1.0"
