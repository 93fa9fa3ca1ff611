"""Putting slurmext into a Slurm site and taking it out again without a trace.

`conf_edit` changes configuration text (pure), `hooks`, `units` and `planning` make the list of changes (`changes`),
`apply` carries them out and writes the manifest that `removal` undoes. May import config, spank and options.
"""
