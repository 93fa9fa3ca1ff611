"""Models and where they are."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from slurmext.adapters.sql.columns import Id, Name, Seconds, Words
from slurmext.adapters.sql.models.base import CLUSTER, MARIADB, NODE, Base


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
