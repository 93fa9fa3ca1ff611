"""What every table has."""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from slurmext.adapters.sql.columns import Name

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
