"""What the controller decides and does: lease, policies, jobs, plans, actions."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from slurmext.adapters.sql.columns import Id, Json, Name, Seconds, Words
from slurmext.adapters.sql.models.base import CLUSTER, JOB_ID, MARIADB, NODE, QUEUE, Base


class Lease(Base):
    """The right to act for a cluster: one row per lease. The row stays when the lease ends, so tokens never repeat."""

    __tablename__ = "leases"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    name: Mapped[str] = mapped_column(Name(64), primary_key=True, doc="`controller` for slurmextd.")
    holder: Mapped[str] = mapped_column(Name(255), doc="Who holds it; empty when given up.")
    token: Mapped[int] = mapped_column(BigInteger, doc="Fencing token: grows by one with every new holder.")
    expires_s: Mapped[float] = mapped_column(Seconds, doc="When another may take it.")


class Policy(Base):
    """A policy as applied. Rows are only ever added; the highest version is in force."""

    __tablename__ = "policies"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, doc="Counts from 1.")
    document: Mapped[str] = mapped_column(Words, doc="The YAML text.")
    applied_by: Mapped[str] = mapped_column(Name(255), doc="Who applied it.")
    applied_s: Mapped[float] = mapped_column(Seconds, doc="When it was applied.")


class Queue(Base):
    """A queue of the policy in force, for reports. Written together with its policy version, read by no decision."""

    __tablename__ = "queues"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    path: Mapped[str] = mapped_column(QUEUE, primary_key=True, doc="`org/team`.")
    parent: Mapped[str] = mapped_column(QUEUE, doc="Path of the parent; empty at the root.")
    guaranteed_gpus: Mapped[int | None] = mapped_column(Integer, doc="Null on a parent: the sum of its children's.")
    reserved_gpus: Mapped[int] = mapped_column(Integer, doc="The part of the guarantee that is never lent.")
    max_gpus: Mapped[int | None] = mapped_column(Integer, doc="Null: no limit.")
    weight: Mapped[float] = mapped_column(Seconds, doc="Share of what is borrowed.")
    priority: Mapped[int] = mapped_column(Integer, doc="Higher borrows first.")
    policy_version: Mapped[int] = mapped_column(Integer, doc="The policy that said so.")


class Job(Base):
    """A job as slurmext knows it. Slurm reuses ids, and changes the submit time on requeue: the first is the key."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "cluster", "end_s"), Index(None, "cluster", "queue", "state"), MARIADB)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, primary_key=True, doc="Slurm's id: `12`, `12_4`.")
    submit_s: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, doc="First submit time; tells reused ids apart."
    )
    name: Mapped[str] = mapped_column(Words, doc="Job name.")
    user_name: Mapped[str] = mapped_column(Name(255), doc="Who submitted it.")
    account: Mapped[str] = mapped_column(Name(255), doc="Slurm account.")
    queue: Mapped[str] = mapped_column(QUEUE, doc="slurmext queue.")
    state: Mapped[str] = mapped_column(Name(64), doc="pending, running, completing, suspended, unknown.")
    gpus: Mapped[int] = mapped_column(Integer, doc="GPUs it holds or asks for.")
    nodes: Mapped[str] = mapped_column(Words, doc="Where it runs (host list); empty while pending.")
    reason: Mapped[str] = mapped_column(Name(64), doc="The one dominant reason it is pending.")
    message: Mapped[str] = mapped_column(Words, doc="That reason in words.")
    reasons: Mapped[str] = mapped_column(
        Name(1024), server_default="", doc="The reasons it waited for, oldest first: `CODE@seconds`, by blanks."
    )
    ckpt: Mapped[str | None] = mapped_column(Name(255), doc="`--ckpt`: signal and grace; null: cannot checkpoint.")
    preempted: Mapped[int] = mapped_column(Integer, doc="How often slurmext evicted it.")
    restarts: Mapped[int] = mapped_column(Integer, doc="How often Slurm restarted it, for whatever reason.")
    start_s: Mapped[float | None] = mapped_column(Seconds, doc="Start of the current or last run.")
    end_s: Mapped[float | None] = mapped_column(Seconds, doc="When it ended for good; null while it lives.")
    requested_nodes: Mapped[str] = mapped_column(Words, doc="Nodes the user required (host list).")
    updated_s: Mapped[float] = mapped_column(Seconds, doc="When anything else in the row last changed.")


class Plan(Base):
    """A decision: what the pure planner wanted done, in short. Its actions point here."""

    __tablename__ = "plans"
    __table_args__ = (Index(None, "cluster", "created_s"), MARIADB)

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    token: Mapped[int] = mapped_column(BigInteger, doc="Fencing token of the daemon that planned.")
    created_s: Mapped[float] = mapped_column(Seconds, doc="When it was written.")
    summary: Mapped[Mapping[str, object]] = mapped_column(Json, doc="Counts per bucket and what else helps (JSON).")


class Action(Base):
    """One thing to do to one job: the intent is written before it is done, the outcome after."""

    __tablename__ = "actions"
    __table_args__ = (
        Index(None, "cluster", "state"),
        Index(None, "cluster", "job_id"),
        Index(None, "cluster", "kind", "changed_s"),
        MARIADB,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    plan_id: Mapped[int] = mapped_column(ForeignKey("plans.id", ondelete="CASCADE"), index=True, doc="Its plan.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    kind: Mapped[str] = mapped_column(Name(32), doc="release, hold, evict.")
    job_id: Mapped[str] = mapped_column(JOB_ID, doc="The job acted on.")
    submit_s: Mapped[int] = mapped_column(BigInteger, doc="Its first submit time.")
    reason: Mapped[str] = mapped_column(Name(64), doc="Reason code.")
    message: Mapped[str] = mapped_column(Words, doc="The reason, or the last outcome, in words.")
    detail: Mapped[Mapping[str, object]] = mapped_column(
        Json, doc="What carrying it out or explaining it needs (JSON)."
    )
    state: Mapped[str] = mapped_column(
        Name(32), doc="intent, signalled, requeued; final: done, refused, failed, abandoned."
    )
    created_s: Mapped[float] = mapped_column(Seconds, doc="When the intent was written.")
    changed_s: Mapped[float] = mapped_column(Seconds, doc="When it entered `state`.")


class Preemption(Base):
    """A line of the victims' ledger: who took what from whom, why, and what was lost. Never pruned."""

    __tablename__ = "preemptions"
    __table_args__ = (
        UniqueConstraint("cluster", "victim_job_id", "victim_submit_s", "ended_s"),
        Index(None, "cluster", "ended_s"),
        MARIADB,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    victim_job_id: Mapped[str] = mapped_column(JOB_ID, doc="The evicted job.")
    victim_submit_s: Mapped[int] = mapped_column(BigInteger, doc="Its first submit time.")
    victim_user: Mapped[str] = mapped_column(Name(255), doc="Its user.")
    beneficiary: Mapped[str] = mapped_column(Name(255), doc="Who got the GPUs: a job id, or what else asked.")
    reason: Mapped[str] = mapped_column(Name(64), doc="RECLAIM_GUARANTEE, PREEMPT_PRIORITY, CONSOLIDATE, QUOTA_CUT.")
    from_queue: Mapped[str] = mapped_column(QUEUE, doc="The victim's queue.")
    to_queue: Mapped[str] = mapped_column(QUEUE, doc="The beneficiary's queue.")
    gpus: Mapped[int] = mapped_column(Integer, doc="GPUs taken.")
    lost_gpu_s: Mapped[float] = mapped_column(Seconds, doc="Work since the last checkpoint, in GPU seconds.")
    signalled_s: Mapped[float | None] = mapped_column(Seconds, doc="When it was told; null: not told.")
    confirmed_s: Mapped[float | None] = mapped_column(Seconds, doc="When it confirmed a checkpoint; null: it did not.")
    ended_s: Mapped[float] = mapped_column(Seconds, doc="When it was requeued or cancelled.")


class Reservation(Base):
    """A standing fence: freed GPUs that nobody but the beneficiary may take."""

    __tablename__ = "reservations"
    __table_args__ = (UniqueConstraint("cluster", "job_id", "submit_s"), MARIADB)

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, doc="The beneficiary.")
    submit_s: Mapped[int] = mapped_column(BigInteger, doc="Its first submit time.")
    created_s: Mapped[float] = mapped_column(Seconds, doc="When the fence was put up.")


class ReservationGpus(Base):
    """The GPUs of a fence on one node."""

    __tablename__ = "reservation_gpus"
    __table_args__ = (MARIADB,)

    reservation_id: Mapped[int] = mapped_column(
        ForeignKey("reservations.id", ondelete="CASCADE"), primary_key=True, doc="Its fence."
    )
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="Node name.")
    gpus: Mapped[int] = mapped_column(Integer, doc="Whole GPUs.")
