"""Files that slurmext installs, shows or runs: hook wrappers, man page, example policies and training script.

The folders here are links to those at the top of the repository; a wheel holds the files themselves.
"""

from __future__ import annotations

from pathlib import Path

SHARE = Path(__file__).parent
