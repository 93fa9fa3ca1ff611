"""What jobs run of slurmext: the checkpoint library, and the program that keeps jobs of --ckpt=transparent."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
TRANSPARENT = Path("hooks", "slurmext-transparent")
LIBRARY = Path("lib")
_SHIM = """\
#!/bin/sh
# Runs a batch job of --ckpt=transparent, as its user: {what}
exec {python} -I -c 'import sys; sys.path.insert(0, sys.argv.pop(1))
from slurmext.checkpoint.transparent.wrapper import main
sys.exit(main())' {library} {criu}"$@"
"""


def files(prefix_dir: Path) -> Iterator[tuple[Path, bytes]]:
    """Where each file of the library goes, and what is in it. A folder of its own: jobs may have it in PYTHONPATH."""
    target = prefix_dir / LIBRARY / PACKAGE.name
    yield target / "__init__.py", (PACKAGE / "__init__.py").read_bytes()
    for source in sorted((PACKAGE / "checkpoint").rglob("*.py")):
        yield target / source.relative_to(PACKAGE), source.read_bytes()


def transparent_program(prefix_dir: Path, python: Path, criu: Path | None) -> str:
    """The program's text. `criu` is the site's own, None for the node's."""
    return _SHIM.format(
        what="starts its script, saves it with CRIU, brings it back.",
        python=shlex.quote(str(python)),
        library=shlex.quote(str(prefix_dir / LIBRARY)),
        criu=f"--criu {shlex.quote(str(criu))} " if criu else "",
    )
