"""The same tests over every store: `store_url` is a migrated database, `store` a store on it (or the fake)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from slurmext.testing import database_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], str]]:
    """URL template of a server by kind; each is started when first asked for."""
    from contextlib import ExitStack

    started: dict[str, str] = {}
    with ExitStack() as stack:

        def url(kind: str) -> str:
            if kind not in started:
                try:
                    started[kind] = stack.enter_context(getattr(database_server, kind)())
                except database_server.ServerMissing as reason:
                    pytest.skip(str(reason))
            return started[kind]

        yield url


def new_database(kind: str, tmp_path: Path, servers: Callable[[str], str]) -> str:
    """URL of a new and empty database."""
    import sqlalchemy

    from slurmext.adapters.sql.engine import parse_url

    name = f"state{next(_numbers)}"
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / name}.db"
    template = servers(kind)
    admin = sqlalchemy.create_engine(
        parse_url(template.format("postgres" if kind == "postgresql" else "mysql")), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return template.format(name)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], str]) -> str:
    return new_database(request.param, tmp_path, servers)


@pytest.fixture
def store_url(empty_url: str) -> str:
    from slurmext.adapters.sql import migrate

    migrate(empty_url)
    return empty_url


@pytest.fixture(scope="session")
def shared_urls(servers: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A migrated database of each kind for all tests that keep to a cluster of their own."""
    from functools import cache

    from slurmext.adapters.sql import migrate

    @cache
    def url(kind: str) -> str:
        made = new_database(kind, tmp_path_factory.mktemp("state"), servers)
        migrate(made)
        return made

    return url


@pytest.fixture(params=["memory", "sqlite", "postgresql", "mariadb"])
def store(request: pytest.FixtureRequest, shared_urls: Callable[[str], str]) -> Iterator[Any]:
    """A store that is empty: databases are shared, the cluster is new (which shows that clusters are apart)."""
    if request.param == "memory":
        from slurmext.testing.memory_store import MemoryStore

        yield MemoryStore()
        return
    from slurmext.adapters.sql import SqlStore

    opened = SqlStore(shared_urls(request.param), cluster=f"c{next(_numbers)}")
    yield opened
    opened.close()


@pytest.fixture
def token(store: Any) -> int:
    """The token of a controller that holds the lease."""
    return store.acquire_lease("controller", "first", 15, 1000.0).token
