"""job_submit.lua under a real Lua with a fake `slurm` table."""
