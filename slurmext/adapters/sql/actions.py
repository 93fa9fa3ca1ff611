"""Plans and their actions: the intent before anything is done, the outcome after."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, func, insert, select, update

from slurmext.adapters.sql.models import Action, Event, Plan
from slurmext.errors import SlurmextError
from slurmext.model.state import ActionKind, ActionRecord, ActionState, Intent, JobKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurmext.adapters.sql.engine import Database

OPEN_STATES = tuple(state.value for state in ActionState if not state.final)
NOT_CARRIED_OUT = (ActionState.INTENT, ActionState.REFUSED, ActionState.FAILED, ActionState.ABANDONED)
CARRIED_OUT_STATES = tuple(state.value for state in ActionState if state not in NOT_CARRIED_OUT)


class ActionStore:
    """Plans and actions of one cluster."""

    _db: Database

    def record_plan(
        self, token: int, now_s: float, summary: Mapping[str, object], intents: Sequence[Intent]
    ) -> list[ActionRecord]:
        """Write a plan and the intents of its actions in one transaction. Records come in the order of `intents`."""
        cluster = self._db.cluster
        with self._db.controlled(token) as connection:
            plan = insert(Plan).values(cluster=cluster, token=token, created_s=now_s, summary=summary)
            plan_id = connection.execute(plan.returning(Plan.id)).scalar_one()
            if not intents:
                return []
            into = insert(Action).returning(Action.id, sort_by_parameter_order=True)
            rows = [
                {
                    "plan_id": plan_id,
                    "cluster": cluster,
                    "kind": intent.kind.value,
                    "job_id": intent.job.job_id,
                    "submit_s": intent.job.submit_s,
                    "reason": intent.reason,
                    "message": intent.message,
                    "detail": intent.detail,
                    "state": ActionState.INTENT.value,
                    "created_s": now_s,
                    "changed_s": now_s,
                }
                for intent in intents
            ]
            ids = connection.execute(into, rows).scalars().all()
        return [
            ActionRecord(
                id=number,
                plan_id=plan_id,
                kind=intent.kind,
                job=intent.job,
                reason=intent.reason,
                message=intent.message,
                detail=json.loads(json.dumps(dict(intent.detail), default=str)),
                state=ActionState.INTENT,
                created_s=now_s,
                changed_s=now_s,
            )
            for number, intent in zip(ids, intents, strict=True)
        ]

    def advance(
        self,
        token: int,
        action_id: int,
        state: ActionState,
        now_s: float,
        *,
        message: str = "",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Record an action's next state (detail is merged) and an event of it, in one transaction.

        The same state again merges detail and message without an event, so a repeated call changes nothing. Leaving
        a final state for another raises SlurmextError.
        """
        with self._db.controlled(token) as connection:
            query = _actions().where(Action.cluster == self._db.cluster, Action.id == action_id).with_for_update()
            row = connection.execute(query).first()
            if row is None:
                raise SlurmextError(f"action {action_id} is not in the state database; it may have been pruned.")
            action = _record(row)
            if action.state.final and state is not action.state:
                raise SlurmextError(f"action {action_id} is already {action.state}; it cannot become {state}.")
            merged = {**action.detail, **(detail or {})}
            values: dict[str, Any] = {"detail": merged, "message": message or action.message}
            if state is not action.state:
                values |= {"state": state.value, "changed_s": now_s}
                connection.execute(
                    insert(Event).values(
                        cluster=self._db.cluster,
                        at_s=now_s,
                        source="daemon",
                        kind=f"{action.kind}.{state}",
                        job_id=action.job.job_id,
                        message=message or action.message,
                        detail={**merged, "action": action_id, "plan": action.plan_id, "reason": action.reason},
                    )
                )
            connection.execute(update(Action).where(Action.id == action_id).values(**values))

    def open_actions(self) -> list[ActionRecord]:
        """Actions not in a final state, oldest first."""
        query = _actions().where(Action.cluster == self._db.cluster, Action.state.in_(OPEN_STATES))
        with self._db.read() as connection:
            return [_record(row) for row in connection.execute(query.order_by(Action.id))]

    def actions(
        self, *, job_id: str | None = None, since_s: float | None = None, limit: int = 100
    ) -> list[ActionRecord]:
        """Newest first. `since_s` is when the intent was written."""
        query = _actions().where(Action.cluster == self._db.cluster)
        if job_id is not None:
            query = query.where(Action.job_id == job_id)
        if since_s is not None:
            query = query.where(Action.created_s >= since_s)
        with self._db.read() as connection:
            return [_record(row) for row in connection.execute(query.order_by(Action.id.desc()).limit(limit))]

    def count_actions(self, *, action: str, since_s: float) -> int:
        """How many actions of a kind were carried out (released, signalled, requeued or done) since then."""
        query = select(func.count()).where(
            Action.cluster == self._db.cluster,
            Action.kind == action,
            Action.changed_s >= since_s,
            Action.state.in_(CARRIED_OUT_STATES),
        )
        with self._db.read() as connection:
            return connection.execute(query).scalar_one()


def _actions() -> Select[Any]:
    return select(
        Action.id,
        Action.plan_id,
        Action.kind,
        Action.job_id,
        Action.submit_s,
        Action.reason,
        Action.message,
        Action.detail,
        Action.state,
        Action.created_s,
        Action.changed_s,
    )


def _record(row: Row[Any]) -> ActionRecord:
    return ActionRecord(
        id=row.id,
        plan_id=row.plan_id,
        kind=ActionKind(row.kind),
        job=JobKey(job_id=row.job_id, submit_s=row.submit_s),
        reason=row.reason,
        message=row.message,
        detail=row.detail,
        state=ActionState(row.state),
        created_s=row.created_s,
        changed_s=row.changed_s,
    )
