"""A running service over SQLite, for each test a fresh one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql import postgresql
from running_service import Running, running

from gemel.server.store import open_store


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    engine = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    with running(tmp_path / "home", engine) as it:
        yield it
    engine.dispose()


@pytest.fixture(scope="module")
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL of the tests' own."""
    with postgresql() as url:
        yield url
