"""Models that can be staged, and where they are."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, UniqueConstraint
from sqlalchemy.dialects.mysql import MEDIUMBLOB
from sqlalchemy.orm import Mapped, mapped_column

from slurmext.adapters.sql.columns import Id, Name, Seconds, Words
from slurmext.adapters.sql.models.base import CLUSTER, MARIADB, NODE, Base

_REVISION = Name(64)
_NAME = Name(255)


class ModelName(Base):
    """The name of a model. It is its first owner's: nobody else adds revisions to it."""

    __tablename__ = "model_names"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    name: Mapped[str] = mapped_column(_NAME, primary_key=True, doc="`org/model`.")
    uid: Mapped[int] = mapped_column(BigInteger, doc="Whose it is.")


class Model(Base):
    """A revision of a model's weights that can be staged."""

    __tablename__ = "models"
    # the newest revision is the one with the highest id: one that was removed must not come back
    __table_args__ = (
        UniqueConstraint("cluster", "name", "revision"),
        Index(None, "cluster", "uid"),
        {**MARIADB, "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, doc="Counts up; the newest revision has the highest.")
    cluster: Mapped[str] = mapped_column(CLUSTER, doc="Slurm's ClusterName.")
    name: Mapped[str] = mapped_column(_NAME, doc="`org/model`.")
    revision: Mapped[str] = mapped_column(_REVISION, doc="Revision.")
    owner: Mapped[str] = mapped_column(Name(255), doc="Who registered it.")
    uid: Mapped[int] = mapped_column(BigInteger, doc="The owner's number: with whose rights storage is read.")
    gid: Mapped[int | None] = mapped_column(BigInteger, doc="Group that may read it as well, if any.")
    public: Mapped[int] = mapped_column(Integer, doc="1: everyone may.")
    size: Mapped[int] = mapped_column(BigInteger, doc="Bytes of all files.")
    files: Mapped[int] = mapped_column(Integer, doc="How many files.")
    chunks: Mapped[int] = mapped_column(Integer, doc="How many chunks.")
    fingerprint: Mapped[str] = mapped_column(Name(64), doc="SHA-256 of the manifest.")
    storage: Mapped[str] = mapped_column(Words, doc="Where its files lie on shared storage.")
    created_s: Mapped[float] = mapped_column(Seconds, doc="When it was registered.")
    shared_bytes: Mapped[int] = mapped_column(BigInteger, doc="Bytes of chunks that an earlier model has too.")
    shared_with: Mapped[str] = mapped_column(Words, doc="The earlier model that has most of them.")


class ModelManifest(Base):
    """Files, chunks and checksums of a model, in parts of at most 1 MiB (docs/adr/0026)."""

    __tablename__ = "model_manifests"
    __table_args__ = (MARIADB,)

    model_id: Mapped[int] = mapped_column(
        ForeignKey("models.id", ondelete="CASCADE"), primary_key=True, doc="Its model."
    )
    part: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, doc="Counts from 0.")
    data: Mapped[bytes] = mapped_column(LargeBinary().with_variant(MEDIUMBLOB(), "mysql"), doc="The bytes.")


class ModelPin(Base):
    """A node that shall have a model in memory and keep it, whether a job uses it or not (`slurmext model pin`)."""

    __tablename__ = "model_pins"
    __table_args__ = (MARIADB,)

    model_id: Mapped[int] = mapped_column(
        ForeignKey("models.id", ondelete="CASCADE"), primary_key=True, doc="The model."
    )
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="Node name.")


class ModelReplica(Base):
    """What a node whose agent is connected says it has of a model in one tier."""

    __tablename__ = "model_replicas"
    __table_args__ = (MARIADB,)

    cluster: Mapped[str] = mapped_column(CLUSTER, primary_key=True, doc="Slurm's ClusterName.")
    node: Mapped[str] = mapped_column(NODE, primary_key=True, doc="Node name.")
    tier: Mapped[str] = mapped_column(Name(16), primary_key=True, doc="memory or disk.")
    name: Mapped[str] = mapped_column(_NAME, primary_key=True, doc="`org/model`.")
    revision: Mapped[str] = mapped_column(_REVISION, primary_key=True, doc="Revision.")
    fingerprint: Mapped[str] = mapped_column(Name(64), doc="SHA-256 of the manifest it has.")
    state: Mapped[str] = mapped_column(Name(16), doc="waiting, receiving, complete, failed.")
    ready_bytes: Mapped[int] = mapped_column(BigInteger, doc="Bytes that are there and checked.")
    size: Mapped[int] = mapped_column(BigInteger, doc="Bytes of all files.")
    pins: Mapped[str] = mapped_column(Words, doc="Who keeps it from eviction, a line for each: `job-12`, `admin`.")
    at_s: Mapped[float] = mapped_column(Seconds, doc="When the daemon heard of it.")
    why: Mapped[str] = mapped_column(Words, doc="What went wrong, if anything.")
