"""`python -m slurmext.staging org/model[@rev]` prints the directory with the model's files, for programs that read one.

vllm serve "$(python -m slurmext.staging org/model)" --served-model-name org/model
"""

from __future__ import annotations

import argparse
import sys

from slurmext.staging.errors import StagingError
from slurmext.staging.loader import path


def main() -> int:
    """Print it; 1 when the model is nowhere."""
    parser = argparse.ArgumentParser(prog="python -m slurmext.staging", description="Print where a model's files are.")
    parser.add_argument("model", help="org/model or org/model@revision")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for one that is being staged [0]")
    given = parser.parse_args()
    try:
        print(path(given.model, wait_s=given.wait))  # noqa: T201
    except StagingError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
