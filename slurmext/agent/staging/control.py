"""Requests about models on the agent's unix socket of root: stage, cancel, evict, pin, unpin, learn, progress."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slurmext.agent.staging.engine import StagingEngine
from slurmext.staging.errors import StagingError
from slurmext.staging.manifest import parse_manifest
from slurmext.staging.names import ModelKey
from slurmext.staging.order import BadOrder, parse_order, progress_to_json
from slurmext.staging.store.tier import TierKind


def answer(engine: StagingEngine, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request of root: `{"op": "stage", …}`."""
    operations: dict[str, Callable[[], dict[str, Any]]] = {
        "stage": lambda: _done(engine.stage(parse_order(request))),
        "stage_cancel": lambda: _done(engine.cancel(*_place(request))),
        "stage_evict": lambda: _done(engine.evict(*_place(request))),
        "stage_pin": lambda: {"found": engine.pin(_place(request)[0], _holder(request), _place(request)[1])},
        "stage_unpin": lambda: _done(engine.unpin(_place(request)[0], _holder(request), _place(request)[1])),
        "stage_learn": lambda: _done(engine.learn(parse_manifest(read_trusted(Path(str(request.get("path"))))))),
        "stage_wait": lambda: {"complete": engine.wait(_place(request)[0], _seconds(request), _place(request)[1])},
        "stage_progress": lambda: {"models": [progress_to_json(one) for one in engine.progress()]},
        "stage_address": lambda: {"address": "{}:{}".format(*engine.address)},
    }
    operation = operations.get(str(request.get("op")))
    try:
        if operation is None:
            raise BadOrder(f"no request about models: {request.get('op')!r}; one of {', '.join(operations)}")
        return {"ok": True, **operation()}
    except StagingError as error:
        return {"ok": False, "error": str(error)}


def read_trusted(path: Path) -> bytes:
    """A manifest's file that only root could have written. Raises BadOrder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_uid not in {0, os.geteuid()} or info.st_mode & 0o022:
                raise BadOrder(f"{path} must be root's alone to write: chown root {path}; chmod go-w {path}")
            return file.read()
    except OSError as error:
        raise BadOrder(f"{path}: {error.strerror}") from error


def _done(_nothing: None) -> dict[str, Any]:
    return {}


def _place(request: Mapping[str, Any]) -> tuple[ModelKey, TierKind]:
    try:
        key = ModelKey(str(request["model"]), str(request["revision"]))
        return key, TierKind(request.get("tier", "memory"))
    except (KeyError, ValueError) as error:
        raise BadOrder(f"which model? {error}") from error


def _seconds(request: Mapping[str, Any]) -> float:
    value = request.get("timeout_s")
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 3600:  # noqa: PLR2004
        raise BadOrder("timeout_s: seconds, at most an hour")
    return float(value)


def _holder(request: Mapping[str, Any]) -> str:
    holder = request.get("holder")
    if not isinstance(holder, str) or not holder.isprintable() or not 0 < len(holder) <= 200:  # noqa: PLR2004
        raise BadOrder("a holder is a line of text: job-12")
    return holder
