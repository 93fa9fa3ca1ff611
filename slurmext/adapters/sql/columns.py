"""Column types that mean the same on all three databases, and survive text that users made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Dialect, Double, Integer, String, Text
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.types import TypeDecorator

Id = BigInteger().with_variant(Integer, "sqlite")
"""A generated key: SQLite counts up only in a column that is exactly INTEGER."""

Seconds = Double
"""Unix seconds or a duration. Double, because MariaDB's FLOAT holds 24 bits and would lose the minutes."""

# MariaDB's TEXT ends at 64 KiB, which a long node list or policy passes.
LONG_TEXT = Text().with_variant(MEDIUMTEXT(), "mysql")


def storable(text: str) -> str:
    """The text as every database takes it: no NUL (PostgreSQL refuses it), no half characters (nobody encodes them).

    Job names come from users, and a name must not be able to stop the controller from writing.
    """
    if text.isascii():
        return text.replace("\0", "�") if "\0" in text else text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "�")


class Name(TypeDecorator[str]):
    """Text of bounded length; longer text is cut, since MariaDB and PostgreSQL would refuse the whole write."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Clean and cut."""
        del dialect
        return None if value is None else storable(value)[: self.impl_instance.length]


class Words(TypeDecorator[str]):
    """Text of any length (16 MiB on MariaDB)."""

    impl = LONG_TEXT
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Clean."""
        del dialect
        return None if value is None else storable(value)


class Json(TypeDecorator[Mapping[str, object]]):
    """A mapping as JSON text. Text, because JSON columns differ in all three and nothing here searches inside."""

    impl = LONG_TEXT
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, object] | None, dialect: Dialect) -> str | None:
        """Encode; what JSON does not know becomes its `str`."""
        del dialect
        return None if value is None else json.dumps(dict(value), default=str)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Decode."""
        del dialect
        return None if value is None else json.loads(value)
