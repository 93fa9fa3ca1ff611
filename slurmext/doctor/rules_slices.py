"""Rules about cutting the GPUs of the host the doctor runs on. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.doctor.rules import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurmext.doctor.facts import Facts
    from slurmext.model.mig import GpuCard


def mig_mode(facts: Facts) -> Iterator[Finding]:
    """Before Hopper the mode changes with a reset, which is the site's to do; a pending one changes at any reset."""
    pending = [card for card in facts.cards if card.mig != card.mig_pending]
    if pending:
        now, soon = ("on", "off") if pending[0].mig else ("off", "on")
        yield Finding(
            code="MIG_PENDING", severity=Severity.WARNING,
            found=f"GPU {_numbers(pending)}: MIG mode is {now}, {soon} is pending",
            effect="it changes at the next reset or reboot, whoever does it; until then the GPU is used as it is",
            line=f"nvidia-smi -i {_numbers(pending)} -mig {int(bool(pending[0].mig))}   (takes it back)",
        )  # fmt: skip
    whole = [card for card in facts.cards if card.mig is False and card.geometry is None and card not in pending]
    if whole:
        yield Finding(
            code="MIG_OFF", severity=Severity.NOTE,
            found=f"GPU {_numbers(whole)} ({whole[0].name}): MIG mode is off, and changes with a reset only",
            effect="these GPUs are never cut into slices; as whole GPUs and MPS shares they work",
            line=f"nvidia-smi -i {_numbers(whole)} -mig 1   (in the node's boot script, before slurmd starts)",
        )  # fmt: skip


def mps_program(facts: Facts) -> Iterator[Finding]:
    """Shares are made with NVIDIA's program."""
    if facts.cards and facts.mps_control is not None and not facts.mps_control.exists:
        yield Finding(
            code="MPS_MISSING", severity=Severity.NOTE, found=f"{facts.mps_control.path} is not there",
            effect="jobs of --gpu-share go back to the queue on this node",
            line="install the driver's compute utilities, or set agent.slices.mps_control in slurmext.yaml",
        )  # fmt: skip


def _numbers(cards: Sequence[GpuCard]) -> str:
    return ",".join(str(card.index) for card in cards)


RULES = (mig_mode, mps_program)
