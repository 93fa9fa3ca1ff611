"""Alembic's environment. slurmext passes its connection; `alembic -c sql/alembic.ini -x url=URL …` makes one."""

from typing import Any, Literal

from alembic import context

from slurmext.adapters.sql import columns
from slurmext.adapters.sql.engine import make_engine, parse_url
from slurmext.adapters.sql.models import Base
from slurmext.adapters.sql.revisions import VERSION_TABLE


def plain_type(kind: str, value: Any, _autogen: object) -> str | Literal[False]:
    """Write our column types into new revisions as what they are in the database: revisions outlive our code."""
    if kind == "type":
        if isinstance(value, columns.Name):
            return f"sa.String({value.impl_instance.length})"
        if isinstance(value, columns.Words | columns.Json):
            return "LONG_TEXT"
        if value is columns.Id:
            return "ID"
    return False


def run(connection: Any) -> None:
    """Run the migrations on a connection; the caller holds the transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        render_item=plain_type,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with make_engine(parse_url(context.get_x_argument(as_dictionary=True)["url"])).begin() as own:
        run(own)
