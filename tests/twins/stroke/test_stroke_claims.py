"""The programme's claims of the outside world."""

from pathlib import Path

import pytest

from gemel.twins.claims import Verdict, check_claims
from gemel.twins.programmes.stroke.claims import CLAIMS

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_claim_holds(claim):
    [checked] = check_claims([claim], data=DATA)
    if checked.verdict is Verdict.SKIPPED:
        pytest.skip(f"{claim.needs} is not in ../shared/data")
    assert checked.verdict is Verdict.HOLDS, checked.computed
