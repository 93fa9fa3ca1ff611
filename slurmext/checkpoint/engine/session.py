"""How the ranks of a job come to one decision over a shared directory, without collectives.

    .session/now               who is in: {"id", "key", "world", "admitted": {rank: nonce}}, written by rank 0
    .session/hello-3           rank 3's wish to be admitted: {"nonce", "key"}
    .session/<id>/<name>/3     what rank 3 says in the exchange of that name
    .session/<id>/<name>/all   what rank 0, which waits for all, decided

Rank 0 holds the directory's lock. A nonce of each process's own keeps what an earlier run left from being taken for
this one's. Directories are listed, not files looked for: a network file system answers the first afresh.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.errors import CheckpointError, write_error

FOLDER = ".session"
PATIENCE_S = 900.0
"""How long ranks wait for each other. A rank that died takes its job down long before."""
ADMISSION_S = 120.0
FIRST_PAUSE_S = 0.001
LOOKS_PER_S = 1600.0
LEAST_PAUSE_S, MOST_PAUSE_S = 0.0025, 0.6
"""All ranks together look so often a second at most: a thousand must not storm the metadata server, and four need not
wait for each other."""
TRIES = 3
Decide = Callable[[list[Any]], Any]


class Alone:
    """The session of a single process: it decides at once."""

    id = ""

    def __init__(self) -> None:
        self.id = secrets.token_hex(4)

    def exchange(self, name: str, value: Any, decide: Decide, *, channel: str = "") -> Any:  # noqa: ARG002 - as Session's
        """What `decide` makes of this process's value."""
        return decide([value])

    def close(self) -> None:
        """Nothing to end."""


class Session:
    """A rank's part in a job's agreement. `key` tells jobs apart; rank 0 must hold the directory's lock."""

    def __init__(self, directory: Path, *, rank: int, world: int, key: str, patience_s: float = PATIENCE_S) -> None:
        self._directory, self._rank, self._world, self._key = directory, rank, world, key
        self._folder = directory / FOLDER
        self._patience_s = patience_s
        self._nonce = secrets.token_hex(8)
        self._admitted: dict[str, str] = {}
        self._past: dict[str, str] = {}
        self._admitting = threading.Lock()
        self.id = ""
        try:
            if rank == 0:
                self._begin()
            else:
                self._join()
        except OSError as error:
            raise write_error(directory, error) from error

    def exchange(self, name: str, value: Any, decide: Decide, *, channel: str = "") -> Any:
        """Say `value`; returns in every rank what `decide` makes of all ranks' values in rank 0.

        What `decide` raises as CheckpointError is raised in every rank. All ranks call this with the same names in the
        same order, within a `channel`; what is said in one does not wait for another.
        """
        folder = self._folder / self.id / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._rank != 0:
                _put(folder / str(self._rank), value)
                self._wait(lambda: "all" in _names(folder), lambda: f"rank 0 to decide on {name}")
                decision = _read(folder / "all")
            else:
                decision = self._decide(folder, name, value, decide, channel)
        except OSError as error:
            raise write_error(self._directory, error) from error
        if "error" in decision:
            raise CheckpointError(decision["error"])
        return decision["value"]

    def close(self) -> None:
        """Nothing is removed: slower ranks may still read. The next session does that."""

    def _decide(self, folder: Path, name: str, value: Any, decide: Decide, channel: str) -> dict[str, Any]:
        others = {str(rank) for rank in range(1, self._world)}

        def everyone() -> bool:
            with self._admitting:
                self._admit()
            return others <= _names(folder)

        def missing() -> str:
            late = sorted(others - _names(folder), key=int)
            return f"rank {', '.join(late[:8])}{'…' if len(late) > 8 else ''} in {name}"  # noqa: PLR2004

        self._wait(everyone, missing)
        if (past := self._past.get(channel)) is not None:
            # Everybody has spoken since, so everybody has read the last decision.
            shutil.rmtree(self._folder / self.id / past, ignore_errors=True)
        self._past[channel] = name
        try:
            values = [value, *(_read(folder / str(rank)) for rank in range(1, self._world))]
            decision = {"value": decide(values)}
        except CheckpointError as error:
            decision = {"error": str(error)}
        _put(folder / "all", decision)
        return decision

    def _begin(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self.id = secrets.token_hex(4)
        (self._folder / self.id).mkdir(parents=True)
        self._announce()
        self._admit()

    def _announce(self) -> None:
        now = {"id": self.id, "key": self._key, "world": self._world, "admitted": self._admitted}
        _put(self._folder / "now", now)

    def _admit(self) -> None:
        """Take in who asks, once each: a second process of the same rank is of another run."""
        if len(self._admitted) == self._world - 1:
            return
        new = False
        for name in _names(self._folder):
            rank = name.removeprefix("hello-")
            if rank == name or rank in self._admitted or not rank.isdecimal() or not 0 < int(rank) < self._world:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError):
                asks = _read(self._folder / name)
                if asks["key"] == self._key and asks["world"] == self._world:
                    self._admitted[rank] = asks["nonce"]
                    new = True
        if new:
            self._announce()

    def _join(self) -> None:
        hello = self._folder / f"hello-{self._rank}"

        def admitted() -> bool:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if "now" in _names(self._folder):
                    now = _read(self._folder / "now")
                    if now["admitted"].get(str(self._rank)) == self._nonce:
                        self.id = now["id"]
                        return True
                    if not hello.exists() or _read(hello)["nonce"] != self._nonce:
                        _put(hello, {"nonce": self._nonce, "key": self._key, "world": self._world})
            return False

        self._wait(admitted, self._why_not_admitted, limit_s=min(ADMISSION_S, self._patience_s))

    def _why_not_admitted(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            now = _read(self._folder / "now")
            if now["key"] != self._key:
                return f"rank 0: {self._directory} is in use by {now['key']}, give this job its own with --ckpt-dir"
            if now["world"] != self._world:
                return (
                    f"rank 0, which counts {now['world']} ranks where this one (rank {self._rank}) counts {self._world}"
                )
        return f"rank 0 to open {self._directory} (is it the same shared directory on every node?)"

    def _wait(self, until: Callable[[], bool], what: Callable[[], str], *, limit_s: float | None = None) -> None:
        limit_s = self._patience_s if limit_s is None else limit_s
        deadline = time.monotonic() + limit_s
        pause_s = FIRST_PAUSE_S
        longest_s = min(max(self._world / LOOKS_PER_S, LEAST_PAUSE_S), MOST_PAUSE_S)
        while not until():
            if time.monotonic() >= deadline:
                raise CheckpointError(f"waited {limit_s:.0f} s for {what()}")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, longest_s)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _put(path: Path, value: Any) -> None:
    for attempt in range(TRIES):
        draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            draft.write_text(json.dumps(value), encoding="utf-8")
            draft.rename(path)
        except OSError:
            # What one rank does not say the others wait for, so a passing fault is not taken for an answer.
            if attempt == TRIES - 1:
                raise
            time.sleep(FIRST_PAUSE_S)
        else:
            return


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
