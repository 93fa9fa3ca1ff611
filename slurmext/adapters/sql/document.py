"""Writes docs/reference/database.md from models and views: `python -m slurmext.adapters.sql.document [--check]`."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from sqlalchemy import Column, Table, inspect

from slurmext.adapters.sql import migrate, models, revisions
from slurmext.adapters.sql.engine import make_engine, parse_url

PAGE = Path("docs/reference/database.md")

_HEAD = """\
<!-- Made by `python -m slurmext.adapters.sql.document`. Do not edit. -->
# The state database

slurmext keeps what it decided and did in a database of its own; nothing is written to slurmdbd's tables. The site
file's `database` names it:

| | |
|---|---|
| `sqlite:////var/lib/slurmext/state.db` | The default, for one controller host. Local filesystems only. |
| `postgresql://user:password@host/slurmext` | For two controller hosts. `pip install 'slurmext[postgres]'` |
| `mariadb://user:password@host/slurmext` | The same. `pip install 'slurmext[mysql]'` |

SQLite on a network filesystem (NFS, Lustre, GPFS, CephFS, …) is refused, since its locks do not hold across hosts.
The file has mode 0600 and runs in WAL mode, so that reports never stop the daemon.

`slurmext install` creates and migrates it, as does `python -m slurmext.adapters.sql.schema URL`. Several processes may
migrate at once. A database that a newer slurmext migrated is refused with the two revisions named; back up before you
upgrade (`sqlite3 state.db '.backup copy.db'`, `pg_dump`, `mariadb-dump`).

Times are Unix seconds. To read them as dates: SQLite `datetime(at_s, 'unixepoch')`, PostgreSQL `to_timestamp(at_s)`,
MariaDB `from_unixtime(at_s)`. Text columns marked JSON hold one object.

One daemon acts at a time: it holds the lease `controller`, and every write it makes checks in the same transaction
that its token is still the newest. A daemon that was stopped, or lost the network, and wakes up after another has
taken over can therefore write nothing.

## Views for reports

Read these; they stay the same when tables change. Give a reporting user `SELECT` on them and nothing else.
"""

_EXAMPLES = """
```sql
-- GPU hours lost to evictions, by queue and reason
SELECT from_queue, reason, COUNT(*), SUM(lost_gpu_hours) FROM preemption_ledger GROUP BY from_queue, reason;
-- everything that happened to job 12
SELECT at_s, what, who, message FROM job_timeline WHERE cluster = 'dev' AND job_id = '12' ORDER BY at_s;
-- running jobs that would lose most if they were evicted now (SQLite)
SELECT job_id, gpus, gpus * (unixepoch() - COALESCE(saved_s, start_s)) / 3600 AS gpu_hours
  FROM checkpoint_age WHERE state = 'running' ORDER BY gpu_hours DESC;
```

## Tables
"""


def page() -> str:
    """The whole page. Raises ValueError naming what has no description."""
    classes = {mapper.local_table: mapper.class_ for mapper in models.Base.registry.mappers}
    tables: list[str] = []
    for table in models.Base.metadata.tables.values():
        words = classes[table].__doc__
        if not words:
            raise ValueError(f"{table.name} has no docstring; {PAGE} needs one.")
        tables += ["", f"### {table.name}", "", " ".join(words.split()), "", *_table_rows(table)]
    return "\n".join([_HEAD, *_views(), _EXAMPLES.rstrip(), *tables, ""])


def _table_rows(table: Table) -> list[str]:
    rows = ["| column | | |", "|---|---|---|"]
    for column in table.columns:
        if not column.doc:
            raise ValueError(f"{table.name}.{column.name} has no doc; {PAGE} needs one.")
        rows.append(f"| `{column.name}` | {_kind(column)} | {column.doc} |")
    return rows


def _kind(column: Column[object]) -> str:
    key = "key" if column.primary_key else ""
    foreign = "".join(f"→ {foreign.column.table.name}" for foreign in column.foreign_keys)
    return " ".join(filter(None, (key, foreign, "null" if column.nullable else "")))


def _views() -> list[str]:
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/state.db"
        migrate(url)
        engine = make_engine(parse_url(url))
        found = inspect(engine)
        for view in sorted(found.get_view_names()):
            # A view's file begins with what it is, `-- column: text` for its own columns, and `-- from:` the tables
            # that describe the others.
            source = max((revisions.MIGRATIONS / "views").glob(f"*/{view}.sql")).read_text(encoding="utf-8")
            words = re.findall(r"^-- (?!\w+: )(.*)$", source, re.MULTILINE)
            own = dict(re.findall(r"^-- (\w+): (.*)$", source, re.MULTILINE))
            tables = [models.Base.metadata.tables[name] for name in reversed(own.pop("from").split(", "))]
            described = {column.name: str(column.doc) for table in tables for column in table.columns} | own
            lines += ["", f"### {view}", "", " ".join(words), "", "| column | |", "|---|---|"]
            for name in (column["name"] for column in found.get_columns(view)):
                if name not in described:
                    raise ValueError(f"{view}.{name} is described nowhere; add `-- {name}: …` to {view}.sql.")
                lines.append(f"| `{name}` | {described[name]} |")
        engine.dispose()
    return lines


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is current (1: it is not)."""
    text = page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is stale: run `python -m slurmext.adapters.sql.document`.", file=sys.stderr)  # noqa: T201
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
