"""GPUs and what is cut from them."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from slurmext.adapters.sql.columns import Id, Json, Name, Seconds, Words
from slurmext.adapters.sql.models.base import CLUSTER, JOB_ID, MARIADB, NODE, QUEUE, Base


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
