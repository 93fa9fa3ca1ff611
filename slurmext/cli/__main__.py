"""`python -m slurmext.cli`: the same as `slurmext`."""

from slurmext.cli.main import main

main()
