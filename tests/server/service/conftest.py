"""A running service over SQLite, for each test a fresh one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_service import Running, running

from gemel.server.store import open_store


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    engine = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    with running(tmp_path / "home", engine) as it:
        yield it
    engine.dispose()
