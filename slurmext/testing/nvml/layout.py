"""The layout of a node's state file, as state.h has it."""

from __future__ import annotations

import ctypes
from typing import ClassVar

MAGIC, VERSION = b"slxnvml", 3
WORKS_WHILE_HELD = -1
MAX_GPUS = 64
MAX_CHANGES = 32
MAX_PROFILES = 18
MAX_STARTS = 12
MAX_INSTANCES = 15
MAX_COMPUTE = 8
MAX_HOLDERS = 128
MAX_RULES = 32
MAX_RECORDS = 2048

_U32, _I32, _U64, _I64, _CHAR = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_int64, ctypes.c_char


class Change(ctypes.Structure):
    _fields_: ClassVar = [("at_us", _U64), ("percent", _I32), ("unused", _U32)]


class Meter(ctypes.Structure):
    _fields_: ClassVar = [("changes", _U32), ("unused", _U32), ("history", Change * MAX_CHANGES)]


class Profile(ctypes.Structure):
    _fields_: ClassVar = [
        ("name", _CHAR * 32), ("number", _U32), ("id", _U32), ("slices", _U32), ("most", _U32), ("sm", _U32),
        ("units", _U32), ("memory_mib", _U32), ("copy_engines", _U32), ("decoders", _U32), ("encoders", _U32),
        ("jpegs", _U32), ("ofas", _U32), ("media", _U32), ("starts", _U32), ("start", _U32 * MAX_STARTS),
    ]  # fmt: skip


class Compute(ctypes.Structure):
    _fields_: ClassVar = [
        ("used", _U32), ("profile", _U32), ("start", _U32), ("slices", _U32), ("slot", _U32), ("generation", _U32),
        ("uuid", _CHAR * 48),
    ]  # fmt: skip


class Instance(ctypes.Structure):
    _fields_: ClassVar = [
        ("used", _U32), ("profile", _U32), ("start", _U32), ("generation", _U32), ("used_bytes", _I64),
        ("work", Meter), ("compute", Compute * MAX_COMPUTE),
    ]  # fmt: skip


class Gpu(ctypes.Structure):
    _fields_: ClassVar = [
        ("name", _CHAR * 96), ("uuid", _CHAR * 96), ("bus_id", _CHAR * 32), ("minor", _U32), ("pci_device_id", _U32),
        ("memory_bytes", _U64), ("used_bytes", _I64), ("fault", _I32), ("mig_capable", _U32), ("mig_current", _U32),
        ("mig_pending", _U32), ("mig_needs_reset", _U32), ("gpm", _U32), ("architecture", _U32),
        ("compute_mode", _U32), ("memory_units", _U32), ("compute_slices", _U32), ("sm", _U32), ("profiles", _U32),
        ("generation", _U32), ("unused", _U32), ("work", Meter), ("profile", Profile * MAX_PROFILES),
        ("instance", Instance * MAX_INSTANCES),
    ]  # fmt: skip


class Holder(ctypes.Structure):
    _fields_: ClassVar = [
        ("pid", _U32), ("gpu", _U32), ("instance", _I32), ("compute", _I32), ("used_bytes", _I64), ("percent", _I32),
        ("unused", _U32),
    ]  # fmt: skip


class Rule(ctypes.Structure):
    _fields_: ClassVar = [
        ("armed", _U32), ("pid", _U32), ("skip", _U32), ("times", _U32), ("seen", _U32), ("result", _I32),
        ("delay_ms", _U32), ("death", _U32), ("victim", _U32), ("unused", _U32), ("call", _CHAR * 64),
    ]  # fmt: skip


class Record(ctypes.Structure):
    _fields_: ClassVar = [("at_us", _U64), ("pid", _U32), ("result", _I32), ("call", _CHAR * 64)]


class State(ctypes.Structure):
    _fields_: ClassVar = [
        ("magic", _CHAR * 8), ("version", _U32), ("size", _U32), ("gpus", _U32), ("fault", _I32), ("delay_ms", _U32),
        ("caps_major", _U32), ("driver", _CHAR * 80), ("cluster", _CHAR * 64), ("node", _CHAR * 64),
        ("root", _CHAR * 256), ("recorded", _U32), ("unused", _U32), ("rule", Rule * MAX_RULES),
        ("holder", Holder * MAX_HOLDERS), ("record", Record * MAX_RECORDS), ("gpu", Gpu * MAX_GPUS),
    ]  # fmt: skip
