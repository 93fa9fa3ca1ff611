"""Rules about slurmext's own parts: plugin, script, hooks, run directory, daemons. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.doctor.rules import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.doctor.facts import Facts


def _release(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]:02d}"


def job_submit(facts: Facts) -> Iterator[Finding]:
    """Without job_submit no job is held, so no quota holds."""
    plugins = facts.words("JobSubmitPlugins")
    if facts.value("JobSubmitPlugins") is not None and not {"lua", "job_submit/lua"} & set(plugins):
        yield Finding(
            code="JOB_SUBMIT", severity=Severity.ERROR, file=str(facts.slurm_conf),
            found=f"JobSubmitPlugins={facts.value('JobSubmitPlugins') or '(none)'}",
            effect="jobs pass to Slurm without quota: nothing holds them for slurmext",
            line=facts.joined("JobSubmitPlugins", "lua"),
        )  # fmt: skip
    if facts.job_submit_is_ours is False:
        yield Finding(
            code="JOB_SUBMIT_SCRIPT", severity=Severity.ERROR, file=str(facts.slurm_conf.parent / "job_submit.lua"),
            found="job_submit.lua is not slurmext's", effect="jobs pass to Slurm without quota",
            line="slurmext install   (keeps the present script as job_submit.site.lua and calls it first)",
        )  # fmt: skip


def spank_plugin(facts: Facts) -> Iterator[Finding]:
    """An `optional` SPANK plugin that does not load is passed over in silence."""
    file = str(facts.plugstack) if facts.plugstack else ""
    if facts.plugin_listed is False:
        yield Finding(
            code="SPANK_MISSING", severity=Severity.ERROR, found="plugstack.conf does not name slurmext.so", file=file,
            effect="sbatch does not know --queue, --ckpt and the other options", line="slurmext install",
        )  # fmt: skip
    elif facts.plugin is not None and not facts.plugin.exists:
        yield Finding(
            code="SPANK_MISSING", severity=Severity.ERROR, found=f"{facts.plugin.path} is not there", file=file,
            effect="sbatch does not know --queue, --ckpt and the other options", line="slurmext install",
        )  # fmt: skip
    elif facts.plugin is not None and (facts.plugin.uid != 0 or facts.plugin.mode & 0o022):
        yield Finding(
            code="SPANK_WRITABLE", severity=Severity.ERROR,
            found=f"{facts.plugin.path} can be written by others than root",
            effect="whoever can write it runs code as root on every node",
            line=f"chown root {facts.plugin.path}; chmod go-w {facts.plugin.path}",
        )  # fmt: skip
    if facts.plugin_release and facts.release and facts.plugin_release != facts.release:
        yield Finding(
            code="SPANK_RELEASE", severity=Severity.ERROR, file=file,
            found=f"slurmext.so is for Slurm {_release(facts.plugin_release)}, running is {_release(facts.release)}",
            effect="Slurm passes over the plugin without a word: --queue, --ckpt and the other options are unknown",
            line="slurmext install   (builds it for the installed release)",
        )  # fmt: skip


def hooks(facts: Facts) -> Iterator[Finding]:
    """Prolog, Epilog and TaskProlog lead to our wrappers."""
    for name in ("Prolog", "Epilog", "TaskProlog") if facts.hooks_known else ():
        fact = facts.hooks.get(name)
        if fact is None or not fact.exists:
            missing = f"{fact.path} is not there" if fact else f"{name} does not lead to slurmext's"
            yield Finding(
                code="HOOK_MISSING", severity=Severity.WARNING, found=missing, file=str(facts.slurm_conf),
                effect="the agent does not learn when jobs start and end, and nodes are not prepared for them",
                line="slurmext install",
            )  # fmt: skip
        elif not fact.mode & 0o111:
            yield Finding(
                code="HOOK_NOT_EXECUTABLE", severity=Severity.ERROR, found=f"{fact.path} is not executable",
                effect="every job's start fails and drains its node", line=f"chmod 0755 {fact.path}",
            )  # fmt: skip


def run_directory(facts: Facts) -> Iterator[Finding]:
    """Sockets and wake files live there; root must be its only writer."""
    there = facts.run_dir
    if there is None:
        return
    if not there.exists:
        yield Finding(
            code="RUN_DIR", severity=Severity.ERROR, found=f"{there.path} is not there",
            effect="no heartbeat, so jobs pass to Slurm unheld; hooks find no agent", line="slurmext install",
        )  # fmt: skip
        return
    if there.uid != 0 or there.mode & 0o022:
        yield Finding(
            code="RUN_DIR", severity=Severity.ERROR,
            found=f"{there.path} has owner {there.uid}, mode {there.mode & 0o7777:04o}",
            effect="another user could put a false heartbeat, queue table or agent socket there",
            line=f"chown root:root {there.path}; chmod 0755 {there.path}",
        )  # fmt: skip
    wake = facts.submit_wake
    wrong_owner = wake is not None and facts.slurm_uid is not None and wake.uid != facts.slurm_uid
    if wake is not None and (not wake.exists or wrong_owner):
        yield Finding(
            code="SUBMIT_WAKE", severity=Severity.WARNING,
            found=f"{wake.path} " + ("is not there" if not wake.exists else f"belongs to uid {wake.uid}"),
            effect="slurmctld cannot wake slurmextd: a submitted job waits for its next timer",
            line="slurmext install",
        )  # fmt: skip
    if facts.queues_tsv is not None and not facts.queues_tsv.exists:
        yield Finding(
            code="NO_POLICY", severity=Severity.WARNING, found=f"{facts.queues_tsv.path} is not there",
            effect="no policy is in force: jobs pass to Slurm unheld, jobs on parts of GPUs are refused",
            line="slurmext policy apply policy.yaml",
        )  # fmt: skip


def daemons(facts: Facts) -> Iterator[Finding]:
    """Slurmextd's heartbeat, the agents of this host, munge."""
    age_s = facts.heartbeat_age_s
    if age_s is not None and age_s > facts.heartbeat_stale_s:
        found = "slurmextd never ran here" if age_s == float("inf") else f"slurmextd's heartbeat is {age_s:.0f} s old"
        yield Finding(
            code="HEARTBEAT", severity=Severity.ERROR, found=found,
            effect="jobs pass to Slurm unheld and nothing is reclaimed", line="systemctl restart slurmextd",
        )  # fmt: skip
    deaf = sorted(node for node, answers in facts.agents.items() if not answers)
    if deaf:
        yield Finding(
            code="AGENT", severity=Severity.ERROR, found=f"no answer from the agent of {', '.join(deaf)}",
            effect="hooks there go on without it: no checkpoint is confirmed, so every reclaim takes its full grace",
            line="systemctl restart slurmext-agent",
        )  # fmt: skip
    if facts.munge_works is False:
        yield Finding(
            code="MUNGE", severity=Severity.ERROR,
            found=f"munge does not work: {facts.munge_error or 'no reason given'}",
            effect="agents cannot prove who they are to slurmextd", line="systemctl restart munge",
        )  # fmt: skip


def guarantees(facts: Facts) -> Iterator[Finding]:
    """What is guaranteed must be there."""
    promised, there = facts.guaranteed_gpus, facts.cluster_gpus
    if promised is not None and there is not None and promised > there:
        yield Finding(
            code="GUARANTEES", severity=Severity.WARNING,
            found=f"the policy guarantees {promised} GPUs, the cluster has {there}",
            effect="not every queue can get its guarantee at the same time: some will wait for GPUs they were promised",
            line="slurmext policy export > policy.yaml; edit it; slurmext policy apply policy.yaml",
        )  # fmt: skip


RULES = (
    job_submit,
    spank_plugin,
    hooks,
    run_directory,
    daemons,
    guarantees,
)
