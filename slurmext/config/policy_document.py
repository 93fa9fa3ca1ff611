"""The shape of the policy file: every key with its type, default and meaning. What the numbers mean is in `policy`."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from slurmext.config.calendar import cron, zone_of
from slurmext.config.names import Name, QueueName, Template, TypeName
from slurmext.config.quota import Amount
from slurmext.config.sizes import SizeDocument
from slurmext.config.slices import SlicesDocument
from slurmext.config.yaml_errors import nearest
from slurmext.model.queue import FenceMode, PreDrain

_SORT_KEYS = ("priority", "fifo", "fair")


class HetJobs(StrEnum):
    """What becomes of a heterogeneous job: queues do not take it."""

    PASS = "pass"  # noqa: S105  no password
    REFUSE = "refuse"


class OverMax(StrEnum):
    """What happens to a job that asks for more than its queue's max: it can never start there."""

    REFUSE = "refuse"
    HOLD = "hold"


def _job_sort(value: str) -> str:
    keys = [key.strip() for key in value.split(",")]
    wrong = [key for key in keys if key not in _SORT_KEYS]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} is no order: a comma list of {', '.join(_SORT_KEYS)}, for example 'priority,fifo'"
            + nearest(wrong[0], _SORT_KEYS)
        )
    return ",".join(keys)


def _nothing_is_empty(value: object) -> object:
    """`research:` with nothing after it is a queue with every key at its default."""
    return {} if value is None else value


def _asked_for(value: object) -> object:
    """`idle:` with nothing after it asks for the defaults."""
    if value is None:
        return {}
    if isinstance(value, bool):
        raise ValueError("write 'idle: {}' for the defaults, 'idle: {action: none}' to leave this queue's jobs alone")  # noqa: TRY004
    return value


Zone = Annotated[str, AfterValidator(lambda name: zone_of(name).key)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Gpus = Annotated[int, Field(ge=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TypeDocument(_Strict):
    """Quota of one GPU type."""

    guaranteed: Amount | None = Field(default=None, description="GPUs of this type that are there whenever asked for.")
    reserved: Amount | None = Field(default=None, description="The part of guaranteed that is never lent.")
    max: Amount | None = Field(
        default=None, description="Most GPUs of this type, borrowed ones included; null = no limit."
    )


class UserDocument(_Strict):
    """Limits of a user or of a group."""

    max: Gpus | None = Field(
        default=None,
        description="Most GPUs held at a time in the queue and those below it, by all of a group together; null = no"
        " limit.",
    )


class AclDocument(_Strict):
    """Who may submit: a user who is listed, is in a listed group, or submits under a listed account."""

    users: tuple[Name, ...] = Field(default=(), description="User names.")
    groups: tuple[Name, ...] = Field(default=(), description="Unix groups; their members may submit.")
    accounts: tuple[Name, ...] = Field(default=(), description="Slurm accounts.")


class IdlePolicy(StrEnum):
    """What happens to a job whose GPUs stay idle."""

    REQUEUE = "requeue"
    BORROWED = "borrowed"
    NONE = "none"


class IdleDocument(_Strict):
    """Jobs whose GPUs all stay idle are warned, given time, and requeued."""

    after_s: Seconds = Field(default=3600, description="A job is warned when all its GPUs were idle for so long.")
    grace_s: Seconds = Field(default=900, description="It leaves so long after that, unless they work again.")
    action: IdlePolicy = Field(
        default=IdlePolicy.REQUEUE,
        description="requeue: it is requeued; borrowed: only while its queue uses more than its guarantee; none: idle"
        " jobs are left alone.",
    )
    max_extend_s: Seconds = Field(
        default=86400, description="For how long at a time its owner may have it spared (slurmext job extend)."
    )


class WindowDocument(_Strict):
    """A time at which other numbers are in force. What is not given here stays as the queue says."""

    start: str | None = Field(
        default=None,
        description="When it begins, each time: minute, hour, day, month, weekday as in cron ('0 8 * * mon-fri').",
    )
    hours: Annotated[float, Field(gt=0, le=8784, allow_inf_nan=False)] | None = Field(
        default=None, description="How long it lasts each time; goes with start."
    )
    date: dt.date | None = Field(
        default=None, description="The day on which it is in force once. Dated windows beat recurring ones."
    )
    days: Annotated[int, Field(ge=1, le=3660, strict=True)] | None = Field(
        default=None, description="How many days from date on. Default 1."
    )
    guaranteed: Amount | None = Field(default=None, description="As in the queue.")
    reserved: Amount | None = Field(default=None, description="As in the queue.")
    max: Amount | None = Field(default=None, description="As in the queue; null = no limit.")
    lending_limit: Gpus | None = Field(default=None, description="As in the queue.")
    by_type: dict[TypeName, TypeDocument] = Field(default={}, description="As in the queue, for the types named here.")

    @field_validator("start")
    @classmethod
    def _start(cls, value: str | None) -> str | None:
        if value is not None:
            cron(value)
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> WindowDocument:
        if (self.start is None) == (self.date is None):
            raise ValueError("needs either start ('0 8 * * mon-fri', with hours) or date (2026-12-24), and not both")
        if self.start is not None and self.hours is None:
            raise ValueError("needs 'hours' beside start: how long it lasts, for example hours: 12")
        if self.start is not None and self.days is not None:
            raise ValueError("'days' goes with date; a recurring window lasts 'hours'")
        if self.date is not None and self.hours is not None:
            raise ValueError("'hours' goes with start; a dated window lasts 'days'")
        if not self.model_fields_set & {"guaranteed", "reserved", "max", "lending_limit", "by_type"}:
            raise ValueError("changes nothing; give guaranteed, reserved, max, lending_limit or by_type")
        return self


class QueueDocument(_Strict):
    """A queue. GPU numbers are absolute, or a share of the parent's number of the same name: '50%'."""

    guaranteed: Amount | None = Field(
        default=None,
        description="GPUs that are there whenever asked for. Not set: the sum of the children's (0 without children).",
    )
    reserved: Amount | None = Field(default=None, description="The part of guaranteed that is never lent. Default 0.")
    max: Amount | None = Field(default=None, description="Most GPUs, borrowed ones included; null = no limit.")
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1, description="Share of idle GPUs this queue gets when several want to borrow, against its siblings."
    )
    priority: int = Field(default=0, description="Queues of higher priority are served first among siblings.")
    lending_limit: Gpus | None = Field(
        default=None, description="Most unused guaranteed GPUs lent out at a time; null = guaranteed - reserved."
    )
    fence: FenceMode = Field(
        default=FenceMode.NONE, description="in: borrows nothing from outside; out: lends nothing outside; both; none."
    )
    min_runtime_s: Seconds = Field(default=0, description="A job that ran shorter than this is no victim.")
    preemption_delay_s: Seconds = Field(
        default=0, description="How long a job of this queue waits before it evicts others."
    )
    job_sort: Annotated[str, AfterValidator(_job_sort)] = Field(
        default="priority,fifo",
        description="Order of jobs inside the queue: a comma list of priority, fifo, fair. Only where priority comes"
        " first does a job of higher priority take the place of running ones of lower.",
    )
    over_max: OverMax | None = Field(
        default=None,
        description="A job asking for more than max: refuse it at submit, or hold it. Default: the settings'.",
    )
    by_type: dict[TypeName, TypeDocument] = Field(
        default={}, description="Quota by GPU type, besides the totals above."
    )
    users: dict[Name, UserDocument] = Field(
        default={}, description="Limits of single users in this queue and those below it."
    )
    groups: dict[Name, UserDocument] = Field(
        default={}, description="Limits of Unix groups in this queue and those below it: all their members together."
    )
    each_user: UserDocument | None = Field(
        default=None, description="The limit of every user who is not listed under users; each by himself."
    )
    idle: Annotated[IdleDocument | None, BeforeValidator(_asked_for)] = Field(
        default=None,
        description="Reclaim of idle GPUs. Not set: as the parent does; at the top: jobs may idle. {} = with defaults.",
    )
    calendar: tuple[WindowDocument, ...] = Field(
        default=(),
        description="Times at which other numbers are in force, in settings.timezone. Of two at the same time the later"
        " in this list counts, dated ones before recurring ones.",
    )
    pre_drain: PreDrain | None = Field(
        default=None,
        description="A borrower that cannot end before the calendar takes its GPUs away: refuse to start it, or start"
        " it and tell its owner when. Default: the parent's; at the top refuse.",
    )
    acl: AclDocument | None = Field(
        default=None, description="Who may submit. Not set: whoever may submit to the parent; at the top: everyone."
    )
    dynamic: Annotated[QueueDocument | None, BeforeValidator(_nothing_is_empty)] = Field(
        default=None,
        description="Queues below this one exist as soon as a job is in them (placement `research/{user}`): what each"
        " is like. Keys as of a queue, without children and acl. {} = with defaults.",
    )
    children: dict[QueueName, QueueNode] = Field(
        default={}, description="Queues below this one. Jobs go to queues without children."
    )


QueueNode = Annotated[QueueDocument, BeforeValidator(_nothing_is_empty)]


def _cron(value: str) -> str:
    cron(value)
    return value


Cron = Annotated[str, AfterValidator(_cron)]


class HeadroomDocument(_Strict):
    """GPUs that borrowers leave, so that bursts of guaranteed work start at once."""

    gpus: Gpus = Field(default=0, description="So many GPUs of the cluster stay free.")
    drainable: bool = Field(
        default=False, description="GPUs borrowed by jobs that reclaim could take within their grace count as free."
    )


class FairShareDocument(_Strict):
    """How the past weighs where queues compete for what is borrowable."""

    past_factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0,
        description="GPUs a queue borrowed on average lately count so much as if it borrowed them now; 0 = not at all.",
    )
    half_life_h: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=24, description="What was borrowed so many hours ago counts half."
    )


class DefragmentDocument(_Strict):
    """Moves of small jobs that leave whole nodes free, when nothing else is to be done."""

    schedule: Cron | None = Field(
        default=None, description="When, as a cron line: '0 3 * * *'; null = only on 'slurmext defrag'."
    )
    worth_s: Seconds = Field(
        default=3600,
        description="A node that becomes wholly free is worth its GPUs for so long; moves that cost more are not made.",
    )
    most_moves: Annotated[int, Field(ge=1, strict=True)] = Field(default=16, description="Most jobs moved at a time.")


class SettingsDocument(_Strict):
    """Knobs of the whole site."""

    grace_s: Seconds = Field(
        default=60, description="Time a victim has to save a checkpoint when it named none itself."
    )
    requeue_delay_s: Seconds = Field(
        default=121, description="How long a requeued job cannot start again: AuthInfo's cred_expire + 1 s."
    )
    preemption_budget: Count | None = Field(
        default=None, description="How often one job may be evicted; null = no limit."
    )
    near_end_s: Seconds = Field(default=0, description="A job that ends within this time is waited for, not evicted.")
    consolidate: bool = Field(default=True, description="Whether a job may be moved to make room for a gang.")
    max_requeues_per_cycle: Count | None = Field(
        default=None, description="Most evictions in one cycle; null = no limit."
    )
    max_requeues_per_hour: Count | None = Field(default=None, description="Most evictions in an hour; null = no limit.")
    cut_delay_s: Seconds = Field(
        default=600,
        description="When a max becomes smaller or a queue is removed, what is above it leaves so much later.",
    )
    headroom: Annotated[HeadroomDocument, BeforeValidator(_nothing_is_empty)] = Field(
        default=HeadroomDocument(), description="What borrowers leave free."
    )
    fair_share: Annotated[FairShareDocument, BeforeValidator(_nothing_is_empty)] = Field(
        default=FairShareDocument(), description="What counts where queues compete for idle GPUs."
    )
    defragment: Annotated[DefragmentDocument, BeforeValidator(_nothing_is_empty)] = Field(
        default=DefragmentDocument(), description="When small jobs are moved together, and for what gain."
    )
    timezone: Zone = Field(default="UTC", description="Time zone of all calendars, an IANA name such as Europe/Berlin.")
    over_max: OverMax = Field(
        default=OverMax.REFUSE,
        description="A job asking for more than its queue's max: refuse it at submit, or hold it.",
    )
    het_jobs: HetJobs = Field(
        default=HetJobs.PASS,
        description="Heterogeneous jobs with GPUs: left to Slurm outside all queues (pass), or refused at submit.",
    )
    default_queue: Template | None = Field(
        default=None,
        description="Queue of a job that names none and matches no placement rule; may be a template as in placement;"
        " null = such a job is left to Slurm.",
    )


class PlacementDocument(_Strict):
    """A job that names no queue goes to `queue` when all that is given here matches; the first such rule counts."""

    queue: Template = Field(
        description="Path of a queue without children. May be a template with {user}, {account}, {partition} or {group}"
        " (the user's primary group): where that makes no queue of the job, the rule does not match."
    )
    user: Name | None = Field(default=None, description="Name of the submitting user.")
    account: Name | None = Field(default=None, description="Slurm account of the job.")
    partition: Name | None = Field(default=None, description="Partition of the job.")
    group: Name | None = Field(default=None, description="A Unix group of the submitting user.")


class PolicyDocument(_Strict):
    """The policy file, version 1."""

    version: Literal[1] = Field(description="Always 1.")
    settings: Annotated[SettingsDocument, BeforeValidator(_nothing_is_empty)] = Field(
        default=SettingsDocument(), description="Knobs of the whole site."
    )
    placement: tuple[PlacementDocument, ...] = Field(
        default=(), description="Which queue a job that names none goes to. The first rule that matches counts."
    )
    queues: dict[QueueName, QueueNode] = Field(description="The queue tree.", min_length=1)
    sizes: dict[QueueName, SizeDocument] = Field(
        default={}, description="Request templates that users name with --size."
    )
    slices: Annotated[SlicesDocument, BeforeValidator(_nothing_is_empty)] = Field(
        default=SlicesDocument(), description="Parts of GPUs: how many GPUs may be cut or shared, and when."
    )


QueueDocument.model_rebuild()
