"""A cohort of the test programme, exported once in every format."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from cardiometabolic import PROGRAMME
from virtual_patients import OVERRIDDEN, unrelated_cohort

from gemel.core.signing import SigningKey
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.export import Format, write


@pytest.fixture
def drawn(provenance: dict[str, Any]) -> VirtualCohort:
    cohort = unrelated_cohort(PROGRAMME, provenance, patients=60)
    return dataclasses.replace(cohort, given={"age_years": ("[70, 80)", "[80, 90)")})


@pytest.fixture(scope="session")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="session")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written") / "cohort"


@pytest.fixture
def exported(
    drawn: VirtualCohort, provenance: dict[str, Any], key: SigningKey, written_once: Path, tmp_path: Path
) -> Path:
    """A copy of its own, which a test may damage."""
    if not written_once.exists():
        write(drawn, written_once, provenance=provenance, decision=OVERRIDDEN, formats=list(Format), key=key)
    return shutil.copytree(written_once, tmp_path / "cohort")
