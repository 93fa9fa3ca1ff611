"""What a policy does to running jobs, told before it is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slurmext.cli.formats import clock, span
from slurmext.errors import SlurmextError
from slurmext.model.amounts import counted

if TYPE_CHECKING:
    from slurmext.cli.session import Session
    from slurmext.config.policy import SitePolicy

_NAMED = 20
"""So many jobs are listed; of more the number is told."""


def warn_of_guarantees(session: Session, before: SitePolicy | None, after: SitePolicy) -> None:
    """What the doctor would say of guarantees that become more than this cluster has."""
    from slurmext.doctor.facts import Facts
    from slurmext.doctor.rules_installation import guarantees

    now_s = session.now()
    promised = after.largest_guarantee(now_s)
    if promised <= (before.largest_guarantee(now_s) if before else 0):
        return
    there = session.cluster_gpus()
    for finding in guarantees(Facts(config={}, guaranteed_gpus=promised, cluster_gpus=there)):
        click.echo(f"warning: {finding.found}: {finding.effect}", err=True)


def show_consequences(session: Session, before: SitePolicy | None, after: SitePolicy) -> None:
    """Guarantees that the cluster has not the GPUs for; which running jobs must leave and when, where the policy makes
    a max smaller or removes a queue.
    """
    from slurmext.service.preview import leaving, takes_away

    warn_of_guarantees(session, before, after)
    now_s = session.now()
    if not takes_away(before, after, now_s):
        return
    try:
        from slurmext.service.policies import Policies

        found = leaving(session.snapshot(), Policies(session.store, lambda _: None), after)
    except SlurmextError as error:
        delay = span(after.settings.cut_delay_s)
        click.echo(f"A queue gets smaller: what is above its max leaves in {delay}. Which jobs that is, is not known:")
        click.echo(f"  {error}")
        return
    if not found:
        click.echo("A queue gets smaller, and no running job has to leave for that.")
        return
    jobs = "1 running job" if len(found) == 1 else f"{len(found)} running jobs"
    click.secho(f"{jobs} must leave unless others end before:", bold=True)
    for line in found[:_NAMED]:
        job = line.job
        wait = span(max(0, line.at_s - now_s))
        gpus = counted(job.placed_gpus, "GPU")
        click.echo(
            f"  {clock(line.at_s)} (in {wait})  job {job.id} of {job.user}, {gpus} of {job.queue}: {line.reason.value}"
        )
    if len(found) > _NAMED:
        click.echo(f"  and {len(found) - _NAMED} more")
