"""A consortium as it is deployed, shared by the tests of one file: each runs its own study on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from consortium import Consortium, running


@pytest.fixture(scope="module")
def live(write_export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A coordinator and four hospitals on hosts of their own; everything runs."""
    with running(tmp_path_factory.mktemp("consortium") / "made", write_export) as made:
        yield made
