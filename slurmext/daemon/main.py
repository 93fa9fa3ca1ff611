"""The slurmextd command."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import click

from slurmext import __version__
from slurmext.config.site import load_site
from slurmext.daemon.controller import Daemon
from slurmext.errors import SlurmextError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Site file [default: SLURMEXT_CONF or /etc/slurmext/slurmext.yaml].",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.version_option(__version__, prog_name="slurmextd")
def main(config: Path | None, verbose: bool) -> None:  # noqa: FBT001  click passes flags so
    """Admit, reclaim and explain: the controller of slurmext.

    Runs in the foreground until SIGTERM. Several may run; the one that holds the lease in the state store acts, the
    others wait. While none runs, jobs pass to Slurm unheld.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a renewal that waits for the database is told of below
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    try:
        daemon = Daemon(load_site(config))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: daemon.stop())
        daemon.run()
    except SlurmextError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
