"""A consortium as it is deployed, shared by the tests of one file: each runs its own study on it. And the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consortium import Consortium, running

_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="module")
def live(write_export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A coordinator and four hospitals on hosts of their own; everything runs."""
    with running(tmp_path_factory.mktemp("consortium") / "made", write_export) as made:
        yield made


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines that stand at the end of the whole run's output."""
    return request.config.stash.setdefault(_FIGURES, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was measured."""
    if lines := config.stash.get(_FIGURES, []):
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
