"""What queues borrowed lately.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from slurmext.adapters.sql.migrations.tables import create_table

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    create_table(
        "queue_use",
        sa.Column("cluster", sa.String(64), nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("gpus", sa.Double, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "queue", name="pk_queue_use"),
    )


def downgrade() -> None:
    op.drop_table("queue_use", if_exists=True)
