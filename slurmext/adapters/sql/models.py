"""The schema. docs/reference/database.md is made from the classes' docstrings and the columns' `doc`.

Times are Unix seconds. Every table but `models` carries the cluster, so that one server can serve several.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from slurmext.adapters.sql.columns import Id, Json, Name, Seconds, Words

# Key columns: MariaDB indexes at most 3072 bytes, and a character may take four.
CLUSTER = Name(64)
JOB_ID = Name(64)
NODE = Name(255)
QUEUE = Name(255)


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


# Job ids and queue paths differ by case; MariaDB's default collation would fold them together.
MARIADB = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


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
    tier: Mapped[str] = mapped_column(Name(16), doc="memory (of a node of the job) or peer (of another).")
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


class Gpu(Base):
    """A GPU as its node's agent last described it."""

    __tablename__ = "gpus"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="Node name.")
    uuid: Mapped[str] = mapped_column(Name(64), primary_key=True, doc="The driver's UUID of the card.")
    minor: Mapped[int] = mapped_column(Integer, doc="The number in /dev/nvidiaN.")
    name: Mapped[str] = mapped_column(Name(255), doc="The driver's name of the card.")
    memory_mib: Mapped[int] = mapped_column(Integer, doc="Memory in MiB.")
    sm: Mapped[int] = mapped_column(Integer, doc="Streaming multiprocessors.")
    mig_capable: Mapped[int] = mapped_column(Integer, doc="1: can be cut into MIG instances.")
    gpu_use: Mapped[str] = mapped_column(Name(32), doc="whole, mig, shared, unknown.")
    detail: Mapped[Mapping[str, object]] = mapped_column(Json, doc="Geometry, instances and shares (JSON).")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When the agent said so.")


class Slice(Base):
    """A slice of a job, a MIG instance or an MPS share, from its reservation to its end."""

    __tablename__ = "slices"
    __table_args__ = (
        Index(None, "cluster", "state"),
        Index(None, "cluster", "job_id"),
        Index(None, "cluster", "ended_s"),
        MARIADB,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    reservation: Mapped[str] = mapped_column(Name(64), doc="The same for all slices of one run of the job.")
    job_id: Mapped[str] = mapped_column(JOB_ID, doc="Whose it is.")
    submit_s: Mapped[int] = mapped_column(BigInteger, doc="That job's first submit time.")
    user_name: Mapped[str] = mapped_column(Name(255), doc="Who submitted the job.")
    queue: Mapped[str] = mapped_column(QUEUE, doc="slurmext queue of the job.")
    node: Mapped[str] = mapped_column(NODE, doc="Node name.")
    gpu: Mapped[str] = mapped_column(Name(64), doc="UUID of the card it is cut from.")
    gpu_type: Mapped[str] = mapped_column(Name(64), doc="Slurm's type of that GPU.")
    profile: Mapped[str | None] = mapped_column(Name(64), doc="MIG profile, `1g.10gb`; null: an MPS share.")
    profile_id: Mapped[int | None] = mapped_column(Integer, doc="NVML's number of the profile on that card.")
    start: Mapped[int | None] = mapped_column(Integer, doc="First memory unit (MIG).")
    share_pct: Mapped[int | None] = mapped_column(Integer, doc="Percent of the GPU's SMs (MPS).")
    memory_mib: Mapped[int | None] = mapped_column(Integer, doc="Memory limit in MiB.")
    milli: Mapped[int] = mapped_column(Integer, doc="What it counts against quotas, in thousandths of a GPU.")
    state: Mapped[str] = mapped_column(Name(32), doc="reserved, ready, live; final: freed, missed, withdrawn.")
    uuid: Mapped[str] = mapped_column(Name(64), doc="UUID of the MIG instance; empty until it is made.")
    why: Mapped[str] = mapped_column(Words, doc="What a need was turned into, or what went wrong.")
    made_ms: Mapped[float | None] = mapped_column(Seconds, doc="How long making it took, in milliseconds.")
    created_s: Mapped[float] = mapped_column(Seconds, doc="When it was reserved.")
    changed_s: Mapped[float] = mapped_column(Seconds, doc="When it entered `state`.")
    live_s: Mapped[float | None] = mapped_column(Seconds, doc="When the job got it.")
    ended_s: Mapped[float | None] = mapped_column(Seconds, doc="When it was freed or given up.")


class GpuHold(Base):
    """A placeholder job: it holds a GPU in Slurm's books while that is in sliced or shared use."""

    __tablename__ = "gpu_holds"
    __table_args__ = (Index(None, "cluster", "state"), MARIADB)

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up; part of the placeholder job's name.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    node: Mapped[str] = mapped_column(NODE, doc="Node name.")
    gpu_type: Mapped[str] = mapped_column(Name(64), doc="Slurm's type of the GPU.")
    gpu_use: Mapped[str] = mapped_column(Name(32), doc="What it is taken for: mig or shared.")
    state: Mapped[str] = mapped_column(Name(32), doc="intent, submitted, held, clearing, leaving; final: ended.")
    job_id: Mapped[str] = mapped_column(JOB_ID, doc="The placeholder job; empty until it is submitted.")
    gpu: Mapped[str] = mapped_column(Name(64), doc="UUID of the card it got; empty until that is known.")
    for_job: Mapped[str] = mapped_column(JOB_ID, doc="The job that waited for it; empty: the policy wanted it.")
    why: Mapped[str] = mapped_column(Words, doc="Why it was taken or given back.")
    created_s: Mapped[float] = mapped_column(Seconds, doc="When the intent was written.")
    changed_s: Mapped[float] = mapped_column(Seconds, doc="When it entered `state`.")


class SliceSample(Base):
    """What a job used of its slices on one node, as the node's agent measured it so far."""

    __tablename__ = "slice_samples"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    job_id: Mapped[str] = mapped_column(JOB_ID, primary_key=True, doc="The job.")
    submit_s: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, doc="Its first submit time."
    )
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="Node name.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When the agent said so.")
    memory_mib: Mapped[int | None] = mapped_column(Integer, doc="What it may use there, in MiB.")
    memory_peak_mib: Mapped[int | None] = mapped_column(Integer, doc="The most it used at a time, in MiB.")
    sm_mean_pct: Mapped[float | None] = mapped_column(Seconds, doc="Mean SM use in percent of the slice.")
    sm_peak_pct: Mapped[float | None] = mapped_column(Seconds, doc="The highest.")
    samples: Mapped[int] = mapped_column(Integer, doc="How many measurements that is.")
    oom: Mapped[int] = mapped_column(Integer, doc="1: it ran out of GPU memory.")


class Model(Base):
    """A revision of a model's weights that can be staged. Shared by all clusters of the database."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("name", "revision"), MARIADB)

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up.")
    name: Mapped[str] = mapped_column(Name(255), doc="`org/model`.")
    revision: Mapped[str] = mapped_column(Name(255), doc="Revision.")
    source: Mapped[str] = mapped_column(Words, doc="Where it was imported from.")
    manifest: Mapped[str] = mapped_column(Words, doc="Files, chunks and checksums (JSON).")
    size_bytes: Mapped[int] = mapped_column(BigInteger, doc="Total size.")
    imported_by: Mapped[str] = mapped_column(Name(255), doc="Who imported it.")
    imported_s: Mapped[float] = mapped_column(Seconds, doc="When.")


class Replica(Base):
    """A copy of a model, whole or in part, in one tier of one node."""

    __tablename__ = "replicas"
    __table_args__ = (Index(None, "cluster", "node"), MARIADB)

    model_id: Mapped[int] = mapped_column(
        ForeignKey("models.id", ondelete="CASCADE"), primary_key=True, doc="Its model."
    )
    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="Node name; empty for shared storage.")
    tier: Mapped[str] = mapped_column(Name(16), primary_key=True, doc="gpu, memory, disk, shared.")
    path: Mapped[str] = mapped_column(Words, doc="Where it lies.")
    state: Mapped[str] = mapped_column(Name(32), doc="staging, ready, evicting, unknown.")
    bytes_done: Mapped[int] = mapped_column(BigInteger, doc="Verified bytes.")
    pinned: Mapped[int] = mapped_column(Integer, doc="Running jobs and pins that keep it from eviction.")
    verified_s: Mapped[float | None] = mapped_column(Seconds, doc="When it was last verified whole.")
    changed_s: Mapped[float] = mapped_column(Seconds, doc="When it entered `state`.")
