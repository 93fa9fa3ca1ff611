"""`slurmext doctor`: what in this cluster would hurt, and the line that mends it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from slurmext.cli.base import Command
from slurmext.cli.session import find_site

_COLOUR = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(
    "doctor", cls=Command, exit_codes={0: "nothing to mend (notes at most)", 1: "an error or a warning was found"},
    examples=[("slurmext doctor", "each setting that would hurt, and the line to change"),
              ("slurmext doctor --json", "the same for a program")],
)  # fmt: skip
@click.option("--site-config", type=click.Path(path_type=Path), envvar="SLURMEXT_CONF", help="slurmext's site file.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Leave out the notes.")
def cli(site_config: Path | None, as_json: bool, quiet: bool) -> None:
    """Look at the live cluster and explain each setting that would hurt, with the line to change."""
    from slurmext.doctor.collect import collect
    from slurmext.doctor.diagnosis import diagnose, unseen
    from slurmext.doctor.rules import Severity
    from slurmext.model.amounts import counted

    facts = collect(find_site(site_config))
    findings = diagnose(facts)
    if quiet:
        findings = [finding for finding in findings if finding.severity is not Severity.NOTE]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            head = click.style(f"{finding.severity}", fg=_COLOUR[finding.severity], bold=True)
            click.echo(f"{head} {finding.code}: {finding.found}\n    {finding.effect}")
            click.echo(f"    {finding.file}: {finding.line}" if finding.file else f"    {finding.line}")
        wrong = sum(finding.severity is not Severity.NOTE for finding in findings)
        click.echo(f"{wrong} to mend, {counted(len(findings) - wrong, 'note')}." if findings else "Nothing to mend.")
    if hidden := unseen(facts):
        remedy = "it cannot be read" if os.geteuid() == 0 else "only root can: run it with sudo"
        click.echo(f"Not looked at: {', '.join(hidden)} ({remedy}).", err=as_json)
    if any(finding.severity is not Severity.NOTE for finding in findings):
        sys.exit(1)
