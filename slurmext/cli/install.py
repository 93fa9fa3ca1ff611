"""`slurmext install` and `slurmext uninstall`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from slurmext.cli.base import Command
from slurmext.errors import SlurmextError

DEFAULT_PREFIX = Path("/usr/local/lib/slurmext")
_PATH = click.Path(path_type=Path)


def _absolute(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    return value.absolute() if value is not None else None


@click.command(
    "install", cls=Command,
    examples=[
        ("slurmext install --dry-run", "show the exact changes for this host, make none"),
        ("slurmext install --role node --yes", "on a compute node"),
        ("slurmext install --option-prefix sx-", "options are called --sx-queue, --sx-ckpt …"),
    ],
)  # fmt: skip
@click.option(
    "--slurm-conf", type=_PATH, callback=_absolute, default=Path("/etc/slurm/slurm.conf"), show_default=True,
    envvar="SLURM_CONF", help="Slurm's configuration; the other files go beside it.",
)  # fmt: skip
@click.option(
    "--site-config", type=_PATH, callback=_absolute, default=Path("/etc/slurmext/slurmext.yaml"), show_default=True,
    envvar="SLURMEXT_CONF", help="slurmext's site file; made with defaults when it is not there.",
)  # fmt: skip
@click.option(
    "--prefix-dir", type=_PATH, callback=_absolute, default=DEFAULT_PREFIX, show_default=True,
    help="Where plugin and hooks go; must be the same path on every node.",
)  # fmt: skip
@click.option(
    "--spank-include", type=_PATH, callback=_absolute, default=Path("/usr/include"), show_default=True,
    help="The directory that has slurm/spank.h of the installed release.",
)  # fmt: skip
@click.option(
    "--option-prefix", help="Put before every option: sx- makes --queue --sx-queue.  [default: the site file's]"
)
@click.option(
    "--hook-python", type=_PATH, callback=_absolute,
    help="Python (3.11 or later) that runs the hooks on the nodes.  [default: /usr/bin/python3 where it is new enough]",
)  # fmt: skip
@click.option(
    "--role", type=click.Choice(["all", "controller", "node", "login"]), default="all", show_default=True,
    help="What this host is; `all` is controller and node in one.",
)  # fmt: skip
@click.option(
    "--units/--no-units", default=None,
    help="Write systemd units, man page and completion.  [default: where systemd runs and the site file is in /etc]",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show every change and make none.")
@click.option("--yes", "-i", "--immediate", is_flag=True, help="Do not ask.")
@click.option("-v", "--verbose", is_flag=True, help="Show the whole content of new files too.")
def cli(
    slurm_conf: Path, site_config: Path, prefix_dir: Path, spank_include: Path, option_prefix: str | None,
    hook_python: Path | None, role: str, units: bool | None, dry_run: bool, yes: bool, verbose: bool,
) -> None:  # fmt: skip
    """Put slurmext into a Slurm site.

    Builds the SPANK plugin for the installed Slurm, adds job_submit.lua, prolog, epilog and task prolog beside what the
    site has, creates the run directory and migrates the state database. slurm.conf is changed only inside a marked
    block; lines it replaces stay there as comments. Running it again changes nothing, `slurmext uninstall` leaves no
    trace.
    """
    from slurmext.install import hooks, planning
    from slurmext.install import units as systemd
    from slurmext.install.apply import apply

    spec = planning.InstallSpec(
        slurm_conf=slurm_conf, site_config=site_config, prefix_dir=prefix_dir, spank_include=spank_include,
        option_prefix=option_prefix, role=planning.Role(role), hook_python=hook_python or hooks.interpreter(),
        system_files=systemd.has_systemd() and site_config.is_relative_to("/etc") if units is None else units,
    )  # fmt: skip
    plan = planning.make_plan(spec)
    _show(plan, verbose=verbose)
    if not dry_run:
        if all(file.is_done for file in plan.files):
            click.echo("Everything is installed already; the database is migrated if it has to be.")
        elif not yes:
            click.confirm("Make these changes?", abort=True)
        _require_root()
        apply(plan)
    click.echo("Nothing was changed. After the installation:" if dry_run else "Installed. Next:")
    for number, step in enumerate(plan.next_steps, 1):
        click.echo(f"  {number}. {step}")


def _require_root() -> None:
    if os.geteuid() != 0:
        raise SlurmextError("only root can install: run it with sudo (--dry-run works for everybody)")


def _show(plan, *, verbose: bool) -> None:  # noqa: ANN001  InstallPlan, imported late
    for directory in plan.directories:
        if not directory.path.exists():
            click.echo(f"create directory {directory.path} (mode {directory.mode:04o})")
    for file in plan.files:
        if file.is_done:
            click.echo(f"unchanged {file.path}")
        elif file.was is not None and (file.edited or verbose):
            click.echo(f"change {file.path}\n{file.diff()}", nl=False)
        elif file.edited or (verbose and b"\0" not in file.content):
            click.echo(f"create {file.path} (mode {file.mode:04o})\n{file.diff()}", nl=False)
        else:
            verb = "replace" if file.was is not None else "create"
            click.echo(f"{verb} {file.path} ({len(file.content)} bytes, mode {file.mode:04o}, uid {file.uid})")
    for link in plan.links:
        click.echo(f"link {link.path} -> {link.target}")
    if plan.database is not None:
        click.echo(f"migrate database {_without_password(plan.database)}")
    for note in plan.notes:
        click.echo(f"note: {note}")


def _without_password(url: str) -> str:
    head, found, tail = url.partition("@")
    return f"{head.rsplit(':', 1)[0]}:***@{tail}" if found and head.count(":") > 1 else url


@click.command(
    "uninstall", cls=Command,
    examples=[
        ("slurmext uninstall --dry-run", "show what would go"),
        ("slurmext uninstall --keep-data", "keep the state database for a later installation"),
    ],
)  # fmt: skip
@click.option("--prefix-dir", type=_PATH, callback=_absolute, default=DEFAULT_PREFIX, show_default=True,
              help="The directory given to `slurmext install`.")  # fmt: skip
@click.option("--keep-data", is_flag=True, help="Keep state database, spool and run directory.")
@click.option("--dry-run", is_flag=True, help="Show what would go and change nothing.")
@click.option("--yes", "-i", "--immediate", is_flag=True, help="Do not ask.")
def uninstall(prefix_dir: Path, keep_data: bool, dry_run: bool, yes: bool) -> None:
    """Take slurmext out of a Slurm site; every file of the site is what it was before."""
    from slurmext.install.removal import plan_removal, remove

    steps = plan_removal(prefix_dir, keep_data=keep_data)
    if not steps:
        raise SlurmextError(f"nothing is installed in {prefix_dir}: name the directory with --prefix-dir")
    for step in steps:
        click.echo(f"{step.verb} {step.path}" + (f" ({step.why})" if step.why else ""))
    if dry_run:
        click.echo("Nothing was changed.")
        return
    if not yes:
        click.confirm("Stop slurmextd and the agents first. Remove slurmext?", abort=True)
    _require_root()
    remove(prefix_dir, keep_data=keep_data)
    click.echo("Removed. Restart slurmctld and every slurmd.")


install = cli
