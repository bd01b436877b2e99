"""The public domain: levels there and back, nothing from data, no event after the end of follow-up."""

import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.synthetic.columns import MISSING, Categories, Numbers, Role, Times
from gemel.synthetic.domain import domain_of, table_domain
from gemel.twins.programmes import stroke

DOMAIN = domain_of(PROGRAMME)


def drawn_levels(domain, patients=3_000, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.integers(0, size, patients) for name, size in domain.sizes.items()}


def with_possible_events(domain, codes):
    """Levels of which no event comes after the end of follow-up."""
    clock = domain.clock
    for column in domain.with_roles(Role.OUTCOME):
        mask = domain.impossible(clock, column.name) if column.name != clock else None
        if mask is not None:
            barred = mask[codes[clock], codes[column.name]]
            codes[column.name] = np.where(barred, column.form.events, codes[column.name])
    return codes


def test_every_column_of_a_programme_is_there_with_its_role():
    assert DOMAIN.names[: len(PROGRAMME.feature_names)] == PROGRAMME.feature_names
    outcomes = [column.name for column in DOMAIN.with_roles(Role.OUTCOME)]
    assert outcomes == [f"outcome/{name}" for name in PROGRAMME.outcome_names]
    assert DOMAIN.clock == "outcome/death"


@pytest.mark.parametrize("programme", [PROGRAMME, stroke.PROGRAMME], ids=lambda p: p.name)
def test_decoded_levels_encode_to_the_same_levels(programme):
    domain = domain_of(programme)
    codes = with_possible_events(domain, drawn_levels(domain))
    raw = domain.decode_columns(codes, seed=3)
    again = domain.encode_columns(raw)
    for column in domain.columns:
        same = codes[column.name] == again[column.name]
        if isinstance(column.form, Times) and column.name != domain.clock:
            # An event may have to come earlier in order to come before the end.
            moved = codes[column.name] < column.form.events
            assert same[~moved].all()
        else:
            assert same.all(), column.name


def test_no_event_comes_after_the_end_of_follow_up():
    codes = with_possible_events(DOMAIN, drawn_levels(DOMAIN))
    table = DOMAIN.decode(codes, seed=1)
    assert (table.time_years <= table.time_years[:, :1] + 1e-6)[table.event >= 0].all()
    censored = table.event[:, 1] == 0
    assert np.allclose(table.time_years[censored, 1], table.time_years[censored, 0])


def test_an_event_after_the_horizon_is_not_looked_at():
    form = Times(event_days=(0, 10, 20), censor_days=(0, 20))
    assert form.encode(np.array([25.0, 25.0, 20.0, 20.0]), np.array([1, 0, 1, 0])).tolist() == [3, 3, 1, 3]


def test_an_event_on_an_edge_belongs_to_the_bin_that_ends_there():
    form = Times(event_days=(0, 10, 20), censor_days=(0, 20))
    assert form.encode(np.array([10.0, 11.0, 1.0]), np.array([1, 1, 1])).tolist() == [0, 1, 0]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30))
def test_no_value_makes_encoding_fail(values):
    for form in (Numbers((0.0, 1.0, 5.0), 0.1), Numbers((0.0, 1.0, 5.0), 0.1, stand_in=2.0)):
        levels = form.encode(np.array(values, np.float32))
        assert ((levels >= 0) & (levels < len(form.levels))).all()


def test_a_value_that_is_not_on_the_public_list_counts_as_missing():
    form = Categories(("a", "b"))
    assert form.levels == ("a", "b", MISSING)
    assert form.encode(np.array(["b", "zebra"], object)).tolist() == [1, 2]


def test_equal_seeds_decode_equally_and_others_do_not():
    codes = drawn_levels(DOMAIN, 200)
    first, second, third = (DOMAIN.decode_columns(codes, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first["age_years"], second["age_years"])
    assert not np.array_equal(first["age_years"], third["age_years"])


def test_a_condition_must_end_on_public_edges():
    edges = DOMAIN.column("age_years").form.edges
    assert DOMAIN.within("age_years", edges[2]) == tuple(range(2, len(edges) - 1))
    with pytest.raises(GemelError, match="GEM704"):
        DOMAIN.within("age_years", edges[2] + 0.5)
    with pytest.raises(GemelError, match="GEM704"):
        DOMAIN.equal("male", 7.0)


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        table_domain([("a", Categories((0.0, 1.0)), Role.FEATURE)] * 2)
