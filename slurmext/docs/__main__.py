"""`python -m slurmext.docs generate [--check]`."""

from slurmext.docs.generate import main

main()
