"""Namespaces of an ordinary user in which a program has the same process ids, and the same clock, in every run.

A user namespace gives the right to make the others and to run CRIU on one's own processes; nobody else's are affected
and no file can be opened that could not be opened before (user_namespaces(7)). Every process keeps its user's id.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

NEWNS, NEWUSER, NEWPID, NEWTIME = 0x00020000, 0x10000000, 0x20000000, 0x00000080
_REC, _PRIVATE = 0x4000, 0x40000
_CAP_AMBIENT, _RAISE, _CLEAR_ALL = 47, 2, 4
_CAP_VERSION = 0x20080522
_SET_UID = 7
LAST_CAP = 63
_SUBREAPER, _DEATH_SIGNAL = 36, 1


class NoNamespacesError(OSError):
    """The kernel gives users no namespaces of their own."""


class _Head(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def enter(*, clock_s: tuple[float, float] | None = None) -> None:
    """Make the namespaces; the next child is their first process, with id 1.

    `clock_s` are CLOCK_MONOTONIC and CLOCK_BOOTTIME as that child shall see them now: a program that sleeps until
    a point in time must not sleep for weeks because it woke up on a node that was booted later (time_namespaces(7)).
    Raises NoNamespacesError.
    """
    uid, gid = os.getuid(), os.getgid()
    try:
        _checked(_libc.unshare(NEWUSER | NEWNS | NEWPID | NEWTIME))
        # Without this the kernel takes no map of groups from a user (user_namespaces(7)).
        _put("/proc/self/setgroups", "deny")
        _put("/proc/self/uid_map", f"{uid} {uid} 1")
        _put("/proc/self/gid_map", f"{gid} {gid} 1")
        if clock_s is not None:
            now = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
            names = ("monotonic", "boottime")
            offsets = [f"{name} {_offset(want - is_)}" for name, want, is_ in zip(names, clock_s, now, strict=True)]
            _put("/proc/self/timens_offsets", "\n".join(offsets))
    except OSError as error:
        raise NoNamespacesError(error.errno, f"users may not make namespaces here: {error.strerror}") from error


def settle() -> None:
    """As the first process inside: mounts of its own, and a /proc of its own processes. Raises NoNamespacesError."""
    try:
        _checked(_libc.mount(b"none", b"/", None, _REC | _PRIVATE, None))
        _checked(_libc.mount(b"proc", b"/proc", b"proc", 0, None))
    except OSError as error:
        raise NoNamespacesError(error.errno, f"/proc cannot be mounted here: {error.strerror}") from error


def start_ids_at(number: int) -> None:
    """The next process gets the id after `number`, so that CRIU's own never stand where a restored one must."""
    _put("/proc/sys/kernel/ns_last_pid", str(number))


def give_capabilities(*, set_uid: bool) -> None:
    """Before exec of CRIU: let it keep the rights over this namespace. On restore it must not try to become root, for
    there is none here, and it does not when it lacks the right to.
    """
    head, sets = _Head(_CAP_VERSION, 0), (_Capabilities * 2)()
    _checked(_libc.capget(ctypes.byref(head), sets))
    if not set_uid:
        sets[0].permitted &= ~(1 << _SET_UID)
        sets[0].effective &= ~(1 << _SET_UID)
    for one in sets:
        one.inheritable = one.permitted
    _checked(_libc.capset(ctypes.byref(head), sets))
    for number in range(LAST_CAP + 1):
        if number != _SET_UID or set_uid:
            _libc.prctl(_CAP_AMBIENT, _RAISE, number, 0, 0)  # refused for those the kernel does not know


def drop_capabilities() -> None:
    """Before exec of the program: it has the rights of its user and no others."""
    _libc.prctl(_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)


def die_with_parent(number: int) -> None:
    """Get this signal when the parent ends."""
    with contextlib.suppress(OSError):
        _checked(_libc.prctl(_DEATH_SIGNAL, number, 0, 0, 0))


def _offset(seconds: float) -> str:
    whole = int(seconds // 1)
    return f"{whole} {int((seconds - whole) * 1e9)}"


def _put(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
