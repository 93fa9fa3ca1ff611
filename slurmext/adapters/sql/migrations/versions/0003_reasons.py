"""Which reasons a job waited for, and since when each.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def columns() -> set[str]:
    """What is there: MariaDB cannot roll DDL back, so an interrupted run may have been here already."""
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns("jobs")}


def upgrade() -> None:
    if "reasons" not in columns():
        op.add_column("jobs", sa.Column("reasons", sa.String(1024), nullable=False, server_default=""))


def downgrade() -> None:
    if "reasons" in columns():
        op.drop_column("jobs", "reasons")
