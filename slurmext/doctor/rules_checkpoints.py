"""Rules about `--ckpt=transparent`: what this node lacks for it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.doctor.rules import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.doctor.facts import Facts

_LEAST = 4


def transparent(facts: Facts) -> Iterator[Finding]:
    """CRIU and user namespaces: a job without them runs on, only unsaved."""
    fact = facts.transparent
    if fact is None:
        return
    effect = "jobs of --ckpt=transparent run on this node without checkpoints"
    if fact.criu is None:
        yield Finding(
            code="CRIU_MISSING", severity=Severity.NOTE, found="no CRIU is on this node", effect=effect,
            line="install criu 4 or later, or name one in agent.criu of the site file",
        )  # fmt: skip
    elif fact.version is not None and fact.version[0] < _LEAST:
        version = ".".join(str(part) for part in fact.version)
        yield Finding(
            code="CRIU_OLD", severity=Severity.NOTE, found=f"{fact.criu} is CRIU {version}", effect=effect,
            line=f"install criu {_LEAST} or later, or name one in agent.criu of the site file",
        )  # fmt: skip
    if not fact.namespaces:
        yield Finding(
            code="NO_USER_NAMESPACES", severity=Severity.NOTE, found="users may make no user namespaces here",
            effect=effect,
            line="sysctl -w user.max_user_namespaces=100000 kernel.apparmor_restrict_unprivileged_userns=0",
        )  # fmt: skip


RULES = (transparent,)
