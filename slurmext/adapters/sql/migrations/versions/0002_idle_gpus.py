"""What the GPUs of jobs do, extensions of idle jobs, and what jobs' owners are told.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from slurmext.adapters.sql.migrations.tables import create_index, create_table

revision = "0002"
down_revision = "0001"

LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql")


def upgrade() -> None:
    create_table(
        "gpu_activity",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("idle_since_s", sa.Double),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.Column("mean_percent", sa.Double),
        sa.Column("peak_memory_mib", sa.Integer),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("valid_until_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", "node", name="pk_gpu_activity"),
    )
    create_index("ix_gpu_activity_cluster_state", "gpu_activity", ["cluster", "state"])
    create_table(
        "extensions",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("keep_until_s", sa.Double, nullable=False),
        sa.Column("asked_by", sa.String(255), nullable=False),
        sa.Column("asked_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", "submit_s", name="pk_extensions"),
    )
    create_index("ix_extensions_cluster_keep_until_s", "extensions", ["cluster", "keep_until_s"])
    create_table(
        "notices",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("since_s", sa.Double, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("message", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", "submit_s", "reason", name="pk_notices"),
    )


def downgrade() -> None:
    for table in ("notices", "extensions", "gpu_activity"):
        op.drop_table(table, if_exists=True)
