"""`python -m slurmext.options generate [--check]`."""

from __future__ import annotations

import sys

from slurmext.spank import generate


def main(argv: list[str]) -> int:
    """`python -m slurmext.options generate [--check]`."""
    if argv not in (["generate"], ["generate", "--check"]):
        sys.stderr.write("usage: python -m slurmext.options generate [--check]\n")
        return 2
    return generate.run(check="--check" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
