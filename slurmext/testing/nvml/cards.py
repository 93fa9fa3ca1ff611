"""The cards a simulated node can have. Names, PCI ids and MIG profiles are the real cards', where they are known.

Profiles: what `nvidia-smi mig -lgip` and `-lgipp` print on these cards. The B200's from 3g on are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum


class Media(IntEnum):
    """What a profile has of a card's video engines: those of its part, none, the one that is lent apart, or all."""

    OWN, NONE, ONE, ALL = 0, 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CardProfile:
    """A MIG profile. `number` is what one asks NVML about, `id` what one creates; `units` and `starts` are memory."""

    name: str
    number: int
    id: int
    slices: int
    most: int
    sm: int
    memory_mib: int
    starts: tuple[int, ...]
    units: int
    media: Media = Media.OWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A kind of GPU. `pci_device_id` has the device in its upper and NVIDIA's vendor id in its lower half.

    `architecture` is the CUDA compute capability times ten. Cards before Hopper (90) change their MIG mode with a
    reset only and have no GPM.
    """

    name: str
    memory_mib: int
    pci_device_id: int
    sm: int
    architecture: int
    memory_units: int = 0
    compute_slices: int = 0
    profiles: tuple[CardProfile, ...] = field(default=())

    @property
    def mig(self) -> bool:
        """Whether it can be cut."""
        return bool(self.profiles)


def _rows(*rows: tuple[str, int, int, int, int, int, float, tuple[int, ...], int]) -> tuple[CardProfile, ...]:
    """From name, number, id, slices, most, SMs, GiB, starts, units."""
    return tuple(
        CardProfile(name=name, number=number, id=given, slices=slices, most=most, sm=sm, memory_mib=round(gib * 1024),
                    starts=starts, units=units, media=_media(name))
        for name, number, given, slices, most, sm, gib, starts, units in rows
    )  # fmt: skip


def _media(name: str) -> Media:
    for suffix, media in ((".all", Media.ALL), ("+me", Media.ONE), ("-me", Media.NONE)):
        if name.endswith(suffix):
            return media
    return Media.OWN


def _eighths(
    names: tuple[str, str, str, str, str, str], sm: tuple[int, int, int, int, int, int], gib: tuple[float, ...]
) -> tuple[CardProfile, ...]:
    """Of a card with 8 memory units and 7 compute slices: 1g, 1g with two units, 2g, 3g, 4g, 7g."""
    one, wide, two, three, four, seven = names
    every, pairs = tuple(range(7)), (0, 2, 4, 6)
    return _rows(
        (one, 0, 19, 1, 7, sm[0], gib[0], every, 1),
        (f"{one}+me", 7, 20, 1, 1, sm[0], gib[0], every, 1),
        (wide, 9, 15, 1, 4, sm[1], gib[1], pairs, 2),
        (two, 1, 14, 2, 3, sm[2], gib[1], pairs[:3], 2),
        (three, 2, 9, 3, 2, sm[3], gib[2], (0, 4), 4),
        (four, 3, 5, 4, 1, sm[4], gib[2], (0,), 4),
        (seven, 4, 0, 7, 1, sm[5], gib[3], (0,), 8),
    )


_A30 = _rows(
    ("1g.6gb", 0, 14, 1, 4, 14, 5.81, (0, 1, 2, 3), 1),
    ("1g.6gb+me", 7, 21, 1, 1, 14, 5.81, (0, 1, 2, 3), 1),
    ("2g.12gb", 1, 5, 2, 2, 28, 11.69, (0, 2), 2),
    ("2g.12gb+me", 8, 6, 2, 1, 28, 11.69, (0, 2), 2),
    ("4g.24gb", 3, 0, 4, 1, 56, 23.44, (0,), 4),
)
_AMPERE_SM = (14, 14, 28, 42, 56, 98)
_HOPPER_SM = (16, 26, 32, 60, 64, 132)
_A100_40 = _eighths(
    ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"), _AMPERE_SM, (4.75, 9.62, 19.5, 39.25)
)
_A100_80 = _eighths(
    ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"), _AMPERE_SM, (9.62, 19.5, 39.25, 78.5)
)
_H100_80 = _eighths(
    ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"), _HOPPER_SM, (9.75, 19.62, 39.5, 79.25)
)
_H200 = _eighths(
    ("1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"), _HOPPER_SM, (16.0, 32.25, 69.5, 139.75)
)
_B200 = _eighths(
    ("1g.23gb", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb"),
    (18, 30, 36, 70, 72, 148),
    (22.0, 44.25, 89.0, 178.5),
)
# Another driver on the same card: its eighths are smaller (mig-parted #187, the table above is #166's).
_B200_LESS = tuple(replace(row, memory_mib=20_992) if row.name.startswith("1g.23gb") else row for row in _B200)
_QUARTERS, _HALVES = (0, 3, 6, 9), (0, 6)
_RTX_PRO_6000 = _rows(
    ("1g.24gb", 0, 14, 1, 4, 46, 23.62, _QUARTERS, 3),
    ("1g.24gb+me", 7, 21, 1, 1, 46, 23.62, _QUARTERS, 3),
    ("1g.24gb+gfx", 10, 47, 1, 4, 46, 23.62, _QUARTERS, 3),
    ("1g.24gb+me.all", 15, 65, 1, 1, 46, 23.62, _QUARTERS, 3),
    ("1g.24gb-me", 13, 67, 1, 4, 46, 23.62, _QUARTERS, 3),
    ("2g.48gb", 1, 5, 2, 2, 94, 47.38, _HALVES, 6),
    ("2g.48gb+gfx", 11, 35, 2, 2, 94, 47.38, _HALVES, 6),
    ("2g.48gb+me.all", 16, 64, 2, 1, 94, 47.38, _HALVES, 6),
    ("2g.48gb-me", 14, 66, 2, 2, 94, 47.38, _HALVES, 6),
    ("4g.96gb", 3, 0, 4, 1, 188, 95.0, (0,), 12),
    ("4g.96gb+gfx", 12, 32, 4, 1, 188, 95.0, (0,), 12),
)

_A100 = Card(name="NVIDIA A100-SXM4-80GB", memory_mib=81_920, pci_device_id=0x20B210DE, sm=108, architecture=80,
             memory_units=8, compute_slices=7, profiles=_A100_80)  # fmt: skip
_SMALL_A100 = Card(name="NVIDIA A100-SXM4-40GB", memory_mib=40_960, pci_device_id=0x20B010DE, sm=108, architecture=80,
                   memory_units=8, compute_slices=7, profiles=_A100_40)  # fmt: skip
_BIG_B200 = Card(name="NVIDIA B200", memory_mib=183_359, pci_device_id=0x290110DE, sm=148, architecture=100,
                 memory_units=8, compute_slices=7, profiles=_B200)  # fmt: skip
_RTX = Card(name="NVIDIA RTX PRO 6000 Blackwell Server Edition", memory_mib=97_887, pci_device_id=0x2BB510DE, sm=188,
            architecture=120, memory_units=12, compute_slices=4, profiles=_RTX_PRO_6000)  # fmt: skip

CARDS = {
    "a30": Card(name="NVIDIA A30", memory_mib=24_576, pci_device_id=0x20B710DE, sm=56, architecture=80,
                memory_units=4, compute_slices=4, profiles=_A30),
    "a100": _A100,
    "a100_80": _A100, "a100_80gb": _A100,
    "a100_40": _SMALL_A100, "a100_40gb": _SMALL_A100,
    "h100": Card(name="NVIDIA H100 80GB HBM3", memory_mib=81_559, pci_device_id=0x233010DE, sm=132, architecture=90,
                 memory_units=8, compute_slices=7, profiles=_H100_80),
    "h200": Card(name="NVIDIA H200", memory_mib=143_771, pci_device_id=0x233510DE, sm=132, architecture=90,
                 memory_units=8, compute_slices=7, profiles=_H200),
    "b200": _BIG_B200, "b200_less": replace(_BIG_B200, profiles=_B200_LESS),
    "rtx_pro_6000": _RTX, "rtxpro6000": _RTX,
    "l40s": Card(name="NVIDIA L40S", memory_mib=46_068, pci_device_id=0x26B910DE, sm=142, architecture=89),
    "t4": Card(name="Tesla T4", memory_mib=15_360, pci_device_id=0x1EB810DE, sm=40, architecture=75),
}  # fmt: skip
"""By the type that slurm.conf gives them."""

OTHER = Card(name="NVIDIA simulated GPU", memory_mib=16_384, pci_device_id=0x000110DE, sm=40, architecture=75)
"""What a type is that is not in the table."""


def card_of(gpu_type: str) -> Card:
    """The card of a GPU type of slurm.conf; `h100_sxm` is an h100."""
    name = gpu_type.lower()
    return CARDS.get(name) or CARDS.get(name.partition("_")[0]) or OTHER
