"""Which programmes are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemel.core.errors import GemelError
from gemel.twins.installed import find, installed
from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.programmes.fatty_liver.plan import DEFAULT_TRAINING


def test_the_fatty_liver_programme_is_installed():
    assert find("fatty_liver", "1") is PROGRAMME
    assert PROGRAMME in installed()


@pytest.mark.parametrize(("name", "version"), [("fatty_liver", "2"), ("other", "1"), ("", "")])
def test_another_name_or_version_is_refused(name, version):
    with pytest.raises(GemelError) as caught:
        find(name, version)
    assert caught.value.code == "GEM104"


def test_every_programme_starts_its_outcomes_with_death_and_its_bins_cover_its_bounds():
    for programme in installed():
        assert programme.outcomes[0].name == "death"
        for feature in programme.features:
            assert feature.bin_edges[0] == feature.low
            assert feature.bin_edges[-1] == feature.high
            assert list(feature.bin_edges) == sorted(set(feature.bin_edges))
            assert feature.scale > 0


def test_the_default_shares_divide_the_whole_budget():
    plan = DEFAULT_TRAINING
    parts = plan.training_share + plan.marginals_share + plan.count_share
    assert parts == pytest.approx(1)
    assert plan.rounds >= 5


def test_the_page_on_programmes_names_every_feature_outcome_and_code():
    docs = Path(__file__).resolve().parents[2] / "docs"
    page = (docs / "programmes" / "reference.md").read_text(encoding="utf-8")
    for programme in installed():
        assert f"`{programme.name}` {programme.version}" in page
        names = [*programme.feature_names, *programme.outcome_names]
        codes = [code.code for concept in programme.concepts for code in concept.codes]
        assert [missing for missing in (*names, *codes) if missing not in page] == []
