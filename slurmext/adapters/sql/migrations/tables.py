"""What every revision makes tables with: MariaDB cannot roll DDL back, so what an interrupted run left is kept."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op


def create_table(name: str, *columns: sa.schema.SchemaItem, **options: Any) -> None:
    """Make the table unless it is there."""
    mariadb = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
    op.create_table(name, *columns, if_not_exists=True, **mariadb, **options)


def create_index(name: str, table: str, columns: list[str]) -> None:
    """Make the index unless it is there."""
    op.create_index(name, table, columns, if_not_exists=True)
