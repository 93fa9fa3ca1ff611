"""Checkpoints, what they cost, and what they are against."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from slurmext.adapters.sql.columns import Id, Name, Seconds, Words
from slurmext.adapters.sql.models.base import CLUSTER, JOB_ID, MARIADB, NODE, Base


class Checkpoint(Base):
    """A checkpoint a job confirmed."""

    __tablename__ = "checkpoints"
    # readers follow the ids: one that was pruned must not come back
    __table_args__ = (Index(None, "cluster", "job_id", "saved_s"), {**MARIADB, "sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, doc="The job that saved.")
    step: Mapped[int | None] = mapped_column(BigInteger, doc="Training step, if it said.")
    path: Mapped[str] = mapped_column(Words, doc="Where the job says it is.")
    size_bytes: Mapped[int | None] = mapped_column(BigInteger, doc="Size, if it said.")
    saved_s: Mapped[float] = mapped_column(Seconds, doc="When it was durable, by the node's clock.")
    confirmed_s: Mapped[float] = mapped_column(Seconds, doc="When the daemon heard of it.")
    node: Mapped[str] = mapped_column(NODE, doc="The node whose agent confirmed it.")


class CheckpointCost(Base):
    """What saving costs a job, as its library last said (`slurmext ckpt why`)."""

    __tablename__ = "checkpoint_costs"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, primary_key=True, doc="The job.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When it said so.")
    saves: Mapped[int] = mapped_column(Integer, doc="Saves it has measured.")
    nodes: Mapped[int] = mapped_column(Integer, doc="Nodes of the job.")
    size_bytes: Mapped[int] = mapped_column(BigInteger, doc="Size of its last checkpoint.")
    stall_s: Mapped[float] = mapped_column(Seconds, doc="How long training stood still for it.")
    write_s: Mapped[float] = mapped_column(Seconds, doc="How long it took until it was on disk.")
    cost_s: Mapped[float] = mapped_column(Seconds, doc="Training time lost per checkpoint: stall and slower steps.")
    every_s: Mapped[float] = mapped_column(Seconds, doc="The interval between saves.")
    mtbf_s: Mapped[float] = mapped_column(Seconds, doc="The mean time between failures that it assumes.")


class CheckpointCopy(Base):
    """A copy of a checkpoint in a node's memory."""

    __tablename__ = "checkpoint_copies"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, primary_key=True, doc="The job.")
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="The node that has it.")
    name: Mapped[str] = mapped_column(Name(255), primary_key=True, doc="The checkpoint: `save-00000003-step-12`.")
    tier: Mapped[str] = mapped_column(Name(16), doc="memory (of a node of the job), peer (of another) or directory.")
    size_bytes: Mapped[int] = mapped_column(BigInteger, doc="How large it is when it is whole.")
    done_bytes: Mapped[int] = mapped_column(BigInteger, doc="How much of it is there.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When the node's agent said so.")


class Failure(Base):
    """A run of a job that ended without anybody having announced it."""

    __tablename__ = "failures"
    __table_args__ = (Index(None, "cluster", "at_s"), MARIADB)

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, doc="The job.")
    submit_s: Mapped[int] = mapped_column(BigInteger, doc="Its first submit time.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When it was seen.")
    kind: Mapped[str] = mapped_column(Name(32), doc="Slurm's state (NODE_FAIL …), or `requeued` by Slurm.")
    nodes: Mapped[str] = mapped_column(Words, doc="Where it ran.")
    node_count: Mapped[int] = mapped_column(Integer, doc="On how many nodes.")
    ran_s: Mapped[float] = mapped_column(Seconds, doc="How long the run had lasted.")


class FailureRate(Base):
    """How often runs end unannounced: what jobs base the interval of their checkpoints on. What is longer ago counts
    less.
    """

    __tablename__ = "failure_rates"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    count: Mapped[float] = mapped_column(Seconds, doc="Failures.")
    node_s: Mapped[float] = mapped_column(Seconds, doc="Seconds of nodes in which they were seen.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="Until when.")
