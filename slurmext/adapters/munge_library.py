"""Munge credentials through libmunge: a credential in a millisecond, where starting `munge` takes many (munge(3)).

Matters where many are made at once: agents prove themselves to each other for every transfer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from slurmext.adapters.munge import Credential, MungeAuth, MungeError

_SOCKET: Final = 8  # MUNGE_OPT_SOCKET, munge.h
_NAME: Final = "libmunge.so.2"


class LibraryMunge:
    """Makes and checks credentials in this process. `socket` is munged's, None for munge's own default."""

    def __init__(self, library: ctypes.CDLL, socket: Path | None) -> None:
        self._library = library
        self._socket = None if socket is None else str(socket).encode()

    def encode(self, payload: bytes) -> str:
        """A credential over the payload, made as this process's user. Raises MungeError."""
        made = ctypes.c_void_p()

        def call(context: ctypes.c_void_p) -> int:
            return self._library.munge_encode(ctypes.byref(made), context, payload, len(payload))

        try:
            self._checked(call)
            return ctypes.string_at(made).decode("ascii")
        finally:
            self._library.free(made)

    def decode(self, credential: str) -> Credential:
        """Check a credential (munged accepts each only once). Raises MungeError."""
        found, length = ctypes.c_void_p(), ctypes.c_int()
        uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
        given = credential.encode("ascii", errors="replace")

        def call(context: ctypes.c_void_p) -> int:
            return self._library.munge_decode(
                given, context, ctypes.byref(found), ctypes.byref(length), ctypes.byref(uid), ctypes.byref(gid)
            )

        try:
            self._checked(call)
            payload = ctypes.string_at(found, length.value) if found else b""
            return Credential(uid=uid.value, payload=payload)
        finally:
            self._library.free(found)

    def _checked(self, call: Callable[[ctypes.c_void_p], int]) -> None:
        context = ctypes.c_void_p(self._library.munge_ctx_create())
        try:
            if self._socket is not None:
                self._library.munge_ctx_set(context, ctypes.c_int(_SOCKET), ctypes.c_char_p(self._socket))
            if code := call(context):
                told: bytes = self._library.munge_ctx_strerror(context) or self._library.munge_strerror(code)
                raise MungeError(f"munge: {told.decode(errors='replace')}")
        finally:
            self._library.munge_ctx_destroy(context)


def find_munge(*, bin_dir: Path = Path("/usr/bin"), socket: Path | None = None) -> LibraryMunge | MungeAuth:
    """Libmunge where it is installed, else its programs. Raises MungeError when neither is."""
    try:
        library: Any = ctypes.CDLL(_NAME)
    except OSError:
        return MungeAuth.find(bin_dir=bin_dir, socket=socket)
    library.munge_ctx_create.restype = ctypes.c_void_p
    library.munge_ctx_create.argtypes = ()
    library.munge_ctx_destroy.argtypes = (ctypes.c_void_p,)
    for name in ("munge_ctx_strerror", "munge_strerror"):
        getattr(library, name).restype = ctypes.c_char_p
    library.munge_ctx_strerror.argtypes = (ctypes.c_void_p,)
    library.munge_encode.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
    library.munge_decode.argtypes = (ctypes.c_char_p, *(ctypes.c_void_p,) * 5)
    library.free.argtypes = (ctypes.c_void_p,)
    return LibraryMunge(library, socket)
