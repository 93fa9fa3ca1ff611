"""BPF programs that decide which devices the processes of a cgroup may open, through the bpf system call alone."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import ClassVar

_SYSCALLS = {"x86_64": 321, "aarch64": 280, "ppc64le": 361, "s390x": 351, "riscv64": 280}
_PROG_LOAD, _PROG_ATTACH, _PROG_QUERY = 5, 8, 16
_CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE = 15, 6
ALLOW_OVERRIDE, ALLOW_MULTI = 1, 2
"""How a cgroup's program goes with those below: they replace it, or all of them must allow. 0: none may be below."""
_MOST_PROGRAMS = 64

# Instruction codes of linux/bpf.h.
_LOAD_WORD, _AND, _JUMP_NOT_EQUAL, _JUMP_EQUAL, _JUMP_AT_LEAST, _SET, _EXIT = 0x61, 0x54, 0x55, 0x15, 0x35, 0xB7, 0x95
_RESULT, _CONTEXT, _TYPE, _MAJOR, _MINOR = 0, 1, 2, 4, 5
_CHARACTER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRules:
    """Character devices a job may not open; everything else it may.

    Of each major in `only` just the minors listed, and those from `above` on where that is given; none in `never`.
    """

    only: Mapping[int, Sequence[int]]
    above: Mapping[int, int] = field(default_factory=dict[int, int])
    never: Sequence[tuple[int, int]] = ()


class _Load(ctypes.Structure):
    _fields_: ClassVar = [
        ("prog_type", ctypes.c_uint32), ("insn_cnt", ctypes.c_uint32), ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64), ("log_level", ctypes.c_uint32), ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64), ("kern_version", ctypes.c_uint32), ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
    ]  # fmt: skip


class _Attach(ctypes.Structure):
    _fields_: ClassVar = [
        ("target_fd", ctypes.c_uint32), ("attach_bpf_fd", ctypes.c_uint32), ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
    ]  # fmt: skip


class _Query(ctypes.Structure):
    _fields_: ClassVar = [
        ("target_fd", ctypes.c_uint32), ("attach_type", ctypes.c_uint32), ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32), ("prog_ids", ctypes.c_uint64), ("prog_cnt", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    ]  # fmt: skip


def program(rules: DeviceRules) -> bytes:
    """The rules as instructions."""
    code = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT, 0),
        _instruction(_AND, _TYPE, value=0xFFFF),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
        _instruction(_JUMP_EQUAL, _TYPE, offset=2, value=_CHARACTER),
        *_answer(allow=True),
    ]
    for major, minors in sorted(rules.only.items()):
        body: list[bytes] = []
        for minor in sorted(minors):
            body += [_instruction(_JUMP_NOT_EQUAL, _MINOR, offset=2, value=minor), *_answer(allow=True)]
        if major in rules.above:
            body += [_instruction(_JUMP_AT_LEAST, _MINOR, offset=2, value=rules.above[major]), *_answer(allow=False),
                     *_answer(allow=True)]  # fmt: skip
        else:
            body += _answer(allow=False)
        code += [_instruction(_JUMP_NOT_EQUAL, _MAJOR, offset=len(body), value=major), *body]
    for major, minor in rules.never:
        code += [
            _instruction(_JUMP_NOT_EQUAL, _MAJOR, offset=3, value=major),
            _instruction(_JUMP_NOT_EQUAL, _MINOR, offset=2, value=minor),
            *_answer(allow=False),
        ]
    return b"".join([*code, *_answer(allow=True)])


def load(code: bytes) -> int:
    """A file descriptor of the program. Raises OSError."""
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    asked = _Load(
        prog_type=_CGROUP_DEVICE_PROGRAM,
        insn_cnt=len(code) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(licence),
        prog_name=b"slurmext",
    )
    return _call(_PROG_LOAD, asked)


def attached(cgroup: int) -> tuple[list[int], int]:
    """Ids of the programs attached to this very cgroup (an open directory), and how. Raises OSError."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    asked = _Query(target_fd=cgroup, attach_type=_CGROUP_DEVICE, prog_ids=ctypes.addressof(ids),
                   prog_cnt=_MOST_PROGRAMS)  # fmt: skip
    _call(_PROG_QUERY, asked)
    return list(ids[: asked.prog_cnt]), asked.attach_flags


def attach(cgroup: int, loaded: int, flags: int) -> None:
    """Attach a program to a cgroup; without ALLOW_MULTI it takes the place of the one there. Raises OSError."""
    asked = _Attach(target_fd=cgroup, attach_bpf_fd=loaded, attach_type=_CGROUP_DEVICE, attach_flags=flags)
    _call(_PROG_ATTACH, asked)


def works() -> bool:
    """Whether this kernel takes such programs from us."""
    try:
        with closing(os.fdopen(load(program(DeviceRules(only={}))), "rb", buffering=0)):
            return True
    except OSError:
        return False


def _answer(*, allow: bool) -> list[bytes]:
    return [_instruction(_SET, _RESULT, value=int(allow)), _instruction(_EXIT)]


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | to, offset, value)


def _call(command: int, asked: ctypes.Structure) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(38, f"no number of the bpf system call known for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(number, command, ctypes.byref(asked), ctypes.sizeof(asked))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)
