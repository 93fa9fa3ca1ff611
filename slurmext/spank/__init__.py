"""What Slurm itself loads: the SPANK plugin (C) and job_submit.lua, and what is generated from the option table.

`templates/` holds the jinja2 sources, `generated/` what `python -m slurmext.options generate` made of them; `build`
compiles the plugin. Imports only `slurmext.options` and `slurmext.errors`.
"""
