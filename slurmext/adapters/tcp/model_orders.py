"""Orders about models to an agent, as data and as lines: have one, pin it, remove it; and what a job asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from slurmext.ports.staging import ModelAct
from slurmext.staging.errors import StagingError
from slurmext.staging.kinds import TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import BadOrder, StageOrder, order_to_json
from slurmext.staging.order import parse_order as parse_stage_order
from slurmext.staging.preload import MOST_MODELS, Preload, Registered

_LONGEST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StageModel:
    """Have a model here. Answered by `models`, the inventory, as it comes along."""

    order: StageOrder

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"stage": order_to_json(self.order)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActOnModel:
    """Receive it no more, remove it, keep it for `holder` or no longer, check every byte. Answered by `models`."""

    act: ModelAct
    key: ModelKey
    tier: TierKind = TierKind.MEMORY
    holder: str = ""

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"model": {
            "act": self.act, "model": self.key.name, "revision": self.key.revision, "tier": self.tier.value,
            "holder": self.holder,
        }}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PreloadJob:
    """What a job asked for with --preload: told before it starts, and again when its prolog asks."""

    job_id: int
    models: tuple[Preload, ...]

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"preload": {"job_id": self.job_id, "models": [
            [each.reference, each.key and each.key.name, each.key and each.key.revision, each.fingerprint,
             each.storage, each.why]
            for each in self.models
        ]}}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The registry's models, newest last, in as many orders as it takes; with `first` what was told before is void."""

    models: tuple[Registered, ...]
    first: bool = True

    def line(self) -> dict[str, Any]:
        """As it is sent."""
        return {"catalogue": {"first": self.first, "models": [
            [each.key.name, each.key.revision, each.fingerprint, each.uid, each.gid, each.public, each.storage]
            for each in self.models
        ]}}  # fmt: skip


ModelOrder = StageModel | ActOnModel | PreloadJob | Catalogue


def _stage(asked: Mapping[str, Any]) -> StageModel | None:
    try:
        return StageModel(order=parse_stage_order(asked))
    except BadOrder:
        return None


def _act(asked: Mapping[str, Any]) -> ActOnModel | None:
    act, holder = asked.get("act"), asked.get("holder", "")
    if act not in get_args(ModelAct) or not isinstance(holder, str) or len(holder) > _LONGEST:
        return None
    try:
        key = ModelKey(str(asked.get("model")), str(asked.get("revision")))
        return ActOnModel(act=cast("ModelAct", act), key=key, tier=TierKind(asked.get("tier", "memory")), holder=holder)
    except (StagingError, ValueError):
        return None


def _preload(asked: Mapping[str, Any]) -> PreloadJob | None:
    job_id, listed = asked.get("job_id"), asked.get("models")
    if not isinstance(job_id, int) or not isinstance(listed, list) or len(listed) > MOST_MODELS:
        return None
    try:
        models = tuple(
            Preload(
                reference=str(reference)[:_LONGEST], key=None if name is None else ModelKey(str(name), str(revision)),
                fingerprint=str(fingerprint), storage=str(storage), why=str(why)[:_LONGEST],
            )
            for reference, name, revision, fingerprint, storage, why in listed
        )  # fmt: skip
    except (StagingError, ValueError, TypeError):
        return None
    return PreloadJob(job_id=job_id, models=models)


def _catalogue(asked: Mapping[str, Any]) -> Catalogue | None:
    listed = asked.get("models")
    if not isinstance(listed, list):
        return None
    try:
        models = tuple(
            Registered(
                key=ModelKey(str(name), str(revision)), fingerprint=str(fingerprint), uid=int(uid),
                gid=None if gid is None else int(gid), public=public is True, storage=str(storage),
            )
            for name, revision, fingerprint, uid, gid, public, storage in listed
        )  # fmt: skip
    except (StagingError, ValueError, TypeError):
        return None
    return Catalogue(models=models, first=asked.get("first") is True)


MODEL_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], ModelOrder | None]] = {
    "stage": _stage,
    "model": _act,
    "preload": _preload,
    "catalogue": _catalogue,
}
