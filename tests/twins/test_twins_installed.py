"""Which programmes are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gemel.client_node.audit.people import made_up_dataset
from gemel.core.errors import GemelError
from gemel.twins.installed import definition_of, find, installed, make_twin
from gemel.twins.metrics import count_metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME


def test_every_programme_is_found_by_its_name_and_version_with_its_definition():
    assert len({programme.name for programme in installed()}) == len(installed()) >= 4
    for programme in installed():
        assert find(programme.name, programme.version) is programme
        assert definition_of(programme).programme is programme


@pytest.mark.parametrize(("name", "version"), [(PROGRAMME.name, "0"), ("other", "1"), ("", "")])
def test_another_name_or_version_is_refused(name, version):
    with pytest.raises(GemelError) as caught:
        find(name, version)
    assert caught.value.code == "GEM104"


def test_every_programme_starts_its_outcomes_with_death_and_its_bins_cover_its_bounds():
    for programme in installed():
        assert programme.outcomes[0].name == "death"
        for feature in programme.columns:
            assert feature.bin_edges[0] == feature.low
            assert feature.bin_edges[-1] == feature.high
            assert list(feature.bin_edges) == sorted(set(feature.bin_edges))
            assert feature.scale > 0


def test_the_default_shares_divide_the_whole_budget():
    for programme in installed():
        plan = definition_of(programme).training
        parts = plan.training_share + plan.synthesis_share + plan.count_share
        assert parts == pytest.approx(1)


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_a_hospital_that_held_nobody_out_evaluates_to_empty_tables(programme):
    twin = make_twin(programme)
    nobody = made_up_dataset(programme, patients=3, seed=0).take(np.zeros(3, bool))
    tables = count_metric_tables(programme, twin.predict(nobody.values), nobody)
    assert {name: table.sum() for name, table in tables.items()} == dict.fromkeys(tables, 0)


def test_the_page_on_programmes_names_every_feature_outcome_and_code():
    docs = Path(__file__).resolve().parents[2] / "docs"
    page = (docs / "programmes" / "reference.md").read_text(encoding="utf-8")
    for programme in installed():
        assert f"`{programme.name}` {programme.version}" in page
        names = [*programme.feature_names, *programme.outcome_names]
        codes = [code.code for concept in programme.concepts for code in concept.codes]
        assert [missing for missing in (*names, *codes) if missing not in page] == []
