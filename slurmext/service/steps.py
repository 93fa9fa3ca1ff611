"""An action under way: what becomes of it is in the store before anything else happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from slurmext.errors import SlurmRefused
from slurmext.model.state import ActionRecord, ActionState
from slurmext.ports import Clock, Store

log = logging.getLogger(__name__)


class Steps:
    """`crash` is called at every boundary between store and Slurm, with its name."""

    def __init__(self, store: Store, clock: Clock, crash: Callable[[str], None]) -> None:
        self._store, self._clock, self.crash = store, clock, crash

    def advance(
        self,
        token: int,
        action: ActionRecord,
        state: ActionState,
        message: str = "",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Write that the action has come so far."""
        log.info("action %d %s job %s: %s %s", action.id, action.kind, action.job.job_id, state, message)
        self._store.advance(token, action.id, state, self._clock.now(), message=message, detail=detail)
        self.crash(f"{action.kind} {state}")

    def attempt(
        self,
        token: int,
        action: ActionRecord,
        act: Callable[[str], None],
        done: ActionState,
        message: str = "",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Have Slurm do something with its job; then it is `done`, or refused."""
        try:
            act(action.job.job_id)
        except SlurmRefused as refused:
            self.advance(token, action, ActionState.REFUSED, str(refused))
        else:
            self.crash("held")
            self.advance(token, action, done, message, detail)
