"""A programme that was dropped into an installation, for as long as a test runs: `dropped/six_weeks`, made up."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemel.core.programme import Programme
from gemel.twins import installed, programmes

FOLDER = Path(__file__).with_name("dropped")


def forget() -> None:
    """Let the installation be looked at anew."""
    installed.installed.cache_clear()
    installed._folders.cache_clear()


@contextmanager
def dropped_programme(into: Path) -> Iterator[Programme]:
    """Copy the programme's folder to `into`, a folder of programmes; nothing else is changed."""
    shutil.copytree(FOLDER, into, dirs_exist_ok=True)
    programmes.__path__.append(str(into))
    forget()
    try:
        yield installed.find("six_weeks", "1")
    finally:
        programmes.__path__.remove(str(into))
        for name in [name for name in sys.modules if name.startswith(f"{programmes.__name__}.six_weeks")]:
            del sys.modules[name]
        forget()
