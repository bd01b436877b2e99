"""The programme's claims hold, each against the number that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gemel.twins.claims import Gate, Verdict, check_claims
from gemel.twins.parameters import Mark
from gemel.twins.programmes.fatty_liver.definition import DEFINITION

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
PUBLISHED = [claim for claim in DEFINITION.claims if claim.gate is Gate.G0]
ON_DATA = [claim for claim in DEFINITION.claims if claim.gate is Gate.G1]


@pytest.mark.parametrize("claim", PUBLISHED, ids=lambda claim: claim.name)
def test_a_published_number_is_reproduced(claim):
    (checked,) = check_claims([claim])
    assert checked.verdict is Verdict.HOLDS, checked.computed


def test_no_claim_rests_on_a_number_from_memory():
    assert all(claim.mark is not Mark.UNVERIFIED for claim in DEFINITION.claims)


@pytest.mark.heavy
def test_the_hazard_ratios_of_fatty_liver_are_recovered_on_open_data():
    if not (DATA / ON_DATA[0].needs).exists():
        pytest.skip("the open data of ../shared/data are not on this machine")
    torch.set_num_threads(1)
    for checked in check_claims(ON_DATA, data=DATA):
        assert checked.verdict is Verdict.HOLDS, (checked.claim.name, checked.computed)
