"""The database's reference page."""

from __future__ import annotations

from pathlib import Path

from slurmext.adapters.sql import document, models


def test_reference_page_is_current() -> None:
    """The page is what models and views say; `python -m slurmext.adapters.sql.document` makes it."""
    page = Path(__file__).parents[3] / document.PAGE
    assert page.read_text(encoding="utf-8") == document.page()


def test_every_table_and_column_is_described() -> None:
    """Nothing in the schema is left out of the page."""
    page = document.page()
    for table in models.Base.metadata.tables.values():
        assert f"### {table.name}\n" in page
        for column in table.columns:
            assert f"| `{column.name}` |" in page
