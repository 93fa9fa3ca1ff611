"""The registry of models: names and whose they are, revisions, manifests in parts, pins, what nodes have.

The tables `models` and `replicas` of the first revision were never written to.

Revision: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMBLOB, MEDIUMTEXT

from slurmext.adapters.sql.migrations.tables import create_index, create_table

revision = "0007"
down_revision = "0006"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql")
BYTES = sa.LargeBinary().with_variant(MEDIUMBLOB(), "mysql")


def upgrade() -> None:
    # also what an interrupted run made: nothing was written to it yet
    for table in ("model_manifests", "model_pins", "replicas", "models"):
        op.drop_table(table, if_exists=True)
    create_table(
        "model_names",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("uid", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "name", name="pk_model_names"),
    )
    create_table(
        "models",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("revision", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("uid", sa.BigInteger, nullable=False),
        sa.Column("gid", sa.BigInteger),
        sa.Column("public", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("storage", LONG_TEXT, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("shared_bytes", sa.BigInteger, nullable=False),
        sa.Column("shared_with", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("cluster", "name", "revision", name="uq_models_cluster_name_revision"),
        sqlite_autoincrement=True,
    )
    create_index("ix_models_cluster_uid", "models", ["cluster", "uid"])
    create_table(
        "model_manifests",
        sa.Column("model_id", ID, nullable=False),
        sa.Column("part", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("data", BYTES, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_model_manifests_model_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "part", name="pk_model_manifests"),
    )
    create_table(
        "model_pins",
        sa.Column("model_id", ID, nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_model_pins_model_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "node", name="pk_model_pins"),
    )
    create_table(
        "model_replicas",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("revision", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("ready_bytes", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("pins", LONG_TEXT, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("why", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "node", "tier", "name", "revision", name="pk_model_replicas"),
    )


def downgrade() -> None:
    for table in ("model_replicas", "model_pins", "model_manifests", "models", "model_names"):
        op.drop_table(table, if_exists=True)
    create_table(
        "models",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("revision", sa.String(255), nullable=False),
        sa.Column("source", LONG_TEXT, nullable=False),
        sa.Column("manifest", LONG_TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("imported_by", sa.String(255), nullable=False),
        sa.Column("imported_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("name", "revision", name="uq_models_name_revision"),
    )
    create_table(
        "replicas",
        sa.Column("model_id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("path", LONG_TEXT, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("bytes_done", sa.BigInteger, nullable=False),
        sa.Column("pinned", sa.Integer, nullable=False),
        sa.Column("verified_s", sa.Double),
        sa.Column("changed_s", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_replicas_model_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "cluster", "node", "tier", name="pk_replicas"),
    )
    create_index("ix_replicas_cluster_node", "replicas", ["cluster", "node"])
