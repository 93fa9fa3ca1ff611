"""The cards a simulated node can have. Names and PCI ids are the real ones; MIG profiles are of the card, not of us."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A kind of GPU. `pci_device_id` has the device in its upper and NVIDIA's vendor id in its lower half."""

    name: str
    memory_mib: int
    pci_device_id: int
    mig: bool


CARDS = {
    "a30": Card(name="NVIDIA A30", memory_mib=24_576, pci_device_id=0x20B710DE, mig=True),
    "a100": Card(name="NVIDIA A100-SXM4-80GB", memory_mib=81_920, pci_device_id=0x20B210DE, mig=True),
    "h100": Card(name="NVIDIA H100 80GB HBM3", memory_mib=81_559, pci_device_id=0x233010DE, mig=True),
    "h200": Card(name="NVIDIA H200", memory_mib=143_771, pci_device_id=0x233510DE, mig=True),
    "b200": Card(name="NVIDIA B200", memory_mib=183_359, pci_device_id=0x290110DE, mig=True),
    "l40s": Card(name="NVIDIA L40S", memory_mib=46_068, pci_device_id=0x26B910DE, mig=False),
    "t4": Card(name="Tesla T4", memory_mib=15_360, pci_device_id=0x1EB810DE, mig=False),
}
"""By the type that slurm.conf gives them."""

OTHER = Card(name="NVIDIA simulated GPU", memory_mib=16_384, pci_device_id=0x000110DE, mig=False)
"""What a type is that is not in the table."""


def card_of(gpu_type: str) -> Card:
    """The card of a GPU type of slurm.conf; `h100_sxm` is an h100."""
    name = gpu_type.lower()
    return CARDS.get(name) or CARDS.get(name.partition("_")[0]) or OTHER
