"""What happened: events, activity, notices, use."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from slurmext.adapters.sql.columns import Id, Json, Name, Seconds, Words
from slurmext.adapters.sql.models.base import CLUSTER, JOB_ID, MARIADB, NODE, QUEUE, Base


class Event(Base):
    """Something that happened, for timelines."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("cluster", "dedup"),
        Index(None, "cluster", "at_s"),
        Index(None, "cluster", "job_id", "at_s"),
        # `after_id` is a cursor: an id that was pruned must not come back
        {**MARIADB, "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up; a reader's cursor.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When it happened, by the source's clock.")
    source: Mapped[str] = mapped_column(Name(255), doc="`daemon`, `agent:<node>` or `slurm`.")
    kind: Mapped[str] = mapped_column(Name(64), doc="What happened: `evict.signalled`, `job_start`, ….")
    job_id: Mapped[str | None] = mapped_column(JOB_ID, doc="The job it is about, if any.")
    message: Mapped[str] = mapped_column(Words, doc="In words.")
    detail: Mapped[Mapping[str, object]] = mapped_column(Json, doc="The rest (JSON).")
    dedup: Mapped[str | None] = mapped_column(Name(255), doc="Agents send at least once; one row per key.")


class GpuActivity(Base):
    """What the GPUs of a job on one node do, as the node's agent said last; a new run there replaces the former."""

    __tablename__ = "gpu_activity"
    __table_args__ = (Index(None, "cluster", "state"), MARIADB)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, primary_key=True, doc="The job.")
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="Node name.")
    state: Mapped[str] = mapped_column(Name(32), doc="working, idle (all of them), unknown.")
    idle_since_s: Mapped[float | None] = mapped_column(Seconds, doc="Since when all were idle; null: they are not.")
    gpus: Mapped[int] = mapped_column(Integer, doc="How many the job has there.")
    started_s: Mapped[float] = mapped_column(Seconds, doc="When the job's run there began.")
    mean_percent: Mapped[float | None] = mapped_column(Seconds, doc="Mean utilisation in that run; null: not known.")
    peak_memory_mib: Mapped[int | None] = mapped_column(Integer, doc="Most memory in use on one of them.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When the agent said so.")
    valid_until_s: Mapped[float] = mapped_column(Seconds, doc="Until when `idle` counts; agents repeat it.")


class Extension(Base):
    """A job that is spared although its GPUs are idle (`slurmext job extend`)."""

    __tablename__ = "extensions"
    __table_args__ = (Index(None, "cluster", "keep_until_s"), MARIADB)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, primary_key=True, doc="The job.")
    submit_s: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, doc="Its first submit time."
    )
    keep_until_s: Mapped[float] = mapped_column(Seconds, doc="Until when it is spared.")
    asked_by: Mapped[str] = mapped_column(Name(255), doc="Who asked for it.")
    asked_s: Mapped[float] = mapped_column(Seconds, doc="When.")


class Notice(Base):
    """What a running job's owner is told will happen to it."""

    __tablename__ = "notices"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, primary_key=True, doc="The job.")
    submit_s: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, doc="Its first submit time."
    )
    reason: Mapped[str] = mapped_column(Name(64), primary_key=True, doc="Reason code, such as IDLE_GPUS.")
    since_s: Mapped[float] = mapped_column(Seconds, doc="When it was first told.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When it will happen.")
    message: Mapped[str] = mapped_column(Words, doc="In words.")


class QueueUse(Base):
    """What a queue borrowed lately: who borrowed much waits behind who did not (the policy's `fair_share`)."""

    __tablename__ = "queue_use"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    queue: Mapped[str] = mapped_column(QUEUE, primary_key=True, doc="The queue's path.")
    gpus: Mapped[float] = mapped_column(Seconds, doc="GPUs it borrowed on average; what is longer ago counts less.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When that was.")
