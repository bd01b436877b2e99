"""Real lines of two public hospitals, damaged at random: nothing crashes, no line is lost, no value is made up."""

import random

import pytest
from damaged_exports import check_exports, read_with_lines, real_lines, refused_by_the_models, write_damaged

from gemel.core.errors import GemelError
from gemel.data_adapters.dataset.build import build
from gemel.data_adapters.quality.check import check_export
from gemel.data_adapters.views.run import run_views, standard_views
from gemel.twins.programmes.fatty_liver import PROGRAMME

KEY = b"0123456789abcdef"


@pytest.fixture(scope="module")
def lines():
    found = real_lines()
    if found is None:
        pytest.skip("the public FHIR sites are not in ../shared/data")
    return found


def check_all(folder, number):
    """Counts of check, views and build agree, line for line."""
    report = check_export(folder, PROGRAMME, validate="off")
    [count] = report.files
    assert count.read == number == count.accepted + count.rejected
    assert sum(count.types.values()) == count.accepted
    assert sum(report.rejects_by_code.values()) == count.rejected
    assert 0 < count.accepted < number
    for line in report.rejects:
        assert line.code.startswith("GEM2")
        assert line.reason
    tables = run_views(standard_views(), folder)
    assert tables["patient"].num_rows > 0
    if report.fhir_version != "R4":  # A damaged status has the form of another version: that stops a build.
        with pytest.raises(GemelError) as caught:
            build(folder, PROGRAMME, pseudonym_key=KEY)
        assert caught.value.code == "GEM213"
        return
    _, card = build(folder, PROGRAMME, pseudonym_key=KEY)
    assert (card.files[0].read, card.files[0].rejected) == (count.read, count.rejected)
    assert card.rejects == report.rejects_by_code


def test_five_thousand_damaged_lines_are_counted_and_no_value_is_made_up(lines, tmp_path):
    number = write_damaged(tmp_path, lines, number=5000, seed=20261122)
    check_all(tmp_path, number)
    _, rows = read_with_lines(tmp_path)
    assert len(rows["fact"]) > 200
    for found in rows.values():
        assert refused_by_the_models(random.Random(3).sample(found, min(len(found), 400))) == []


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_thousand_damaged_lines_are_counted_and_no_value_is_made_up(seed, lines, tmp_path):
    number = write_damaged(tmp_path, lines, number=20_000, seed=seed)
    check_all(tmp_path, number)
    counts = check_exports(lines, 20_000, seed=seed)
    assert (counts.refused_by_models, counts.lost) == ([], 0)
    assert counts.checked["fact"] > 2000
