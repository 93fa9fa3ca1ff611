"""What checkpoints cost, copies of them in nodes' memory, and how often jobs fail.

Revision: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from slurmext.adapters.sql.migrations.tables import create_index, create_table

revision = "0006"
down_revision = "0005"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql")


def upgrade() -> None:
    create_table(
        "checkpoint_costs",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("saves", sa.Integer, nullable=False),
        sa.Column("nodes", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("stall_s", sa.Double, nullable=False),
        sa.Column("write_s", sa.Double, nullable=False),
        sa.Column("cost_s", sa.Double, nullable=False),
        sa.Column("every_s", sa.Double, nullable=False),
        sa.Column("mtbf_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", name="pk_checkpoint_costs"),
    )
    create_table(
        "checkpoint_copies",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("done_bytes", sa.BigInteger, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "job_id", "node", "name", name="pk_checkpoint_copies"),
    )
    create_table(
        "failures",
        sa.Column("id", ID, nullable=False),
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("submit_s", sa.BigInteger, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("nodes", LONG_TEXT, nullable=False),
        sa.Column("node_count", sa.Integer, nullable=False),
        sa.Column("ran_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_failures"),
    )
    create_index("ix_failures_cluster_at_s", "failures", ["cluster", "at_s"])
    create_table(
        "failure_rates",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("count", sa.Double, nullable=False),
        sa.Column("node_s", sa.Double, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", name="pk_failure_rates"),
    )


def downgrade() -> None:
    for table in ("failure_rates", "failures", "checkpoint_copies", "checkpoint_costs"):
        op.drop_table(table, if_exists=True)
