import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.arrays import check_arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Feature, FeatureKind, Missing
from gemel.synthetic.marginals import (
    anchor,
    cliques,
    companions,
    count_marginals,
    edges_of,
    encode,
    level_of,
    levels,
    marginal_specs,
    may_be_missing,
    sum_sites,
    table_name,
)

FEATURES = {feature.name: feature for feature in PROGRAMME.features}
BMI = FEATURES["body_mass_index_kg_m2"]


def with_values(values: np.ndarray) -> Dataset:
    n = len(values)
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(f"{i:08x}" for i in range(n)),
        values.astype(np.float32),
        np.ones((n, 3), np.float32),
        np.zeros((n, 3), np.int8),
    )


any_patients = st.lists(
    st.lists(
        st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6, width=32)),
        min_size=len(PROGRAMME.features),
        max_size=len(PROGRAMME.features),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(any_patients, st.data())
def test_removing_one_patient_changes_each_table_by_one_in_one_cell(rows, data):
    values = np.array(rows)
    gone = data.draw(st.integers(0, len(values) - 1))
    whole = count_marginals(PROGRAMME, with_values(values))
    fewer = count_marginals(PROGRAMME, with_values(np.delete(values, gone, axis=0)))
    for name, table in whole.items():
        change = table - fewer[name]
        assert change.sum() == 1
        assert np.count_nonzero(change) == 1


def test_tables_are_what_is_declared(real):
    tables = count_marginals(PROGRAMME, real)
    check_arrays(tables, marginal_specs(PROGRAMME))
    assert all(table.sum() == len(real) for table in tables.values())


def test_tables_count_what_a_loop_counts(real):
    some = real.take(np.arange(200))
    tables = count_marginals(PROGRAMME, some)
    expected = np.zeros_like(tables["marginal/age_years*male"])
    for age, male in some.values[:, :2]:
        expected[
            max(i for i, edge in enumerate(FEATURES["age_years"].bin_edges) if age >= edge), int(male)
        ] += 1
    assert (tables["marginal/age_years*male"] == expected).all()


def test_missing_is_a_level_of_measured_values_and_sex_only():
    with_missing = {f.name for f in PROGRAMME.features if levels(f) == len(f.bin_edges)}
    assert with_missing == {
        "male",
        "body_mass_index_kg_m2",
        "systolic_blood_pressure_mmhg",
        "hdl_cholesterol_mg_dl",
    }


def test_values_beyond_the_public_bounds_count_in_the_outermost_bins():
    column = np.array([-5, 15, 19.99, 20, 59.9, 60, 1e9, np.nan], dtype=np.float32)
    assert level_of(BMI, column).tolist() == [0, 0, 0, 1, 9, 9, 9, 10]


def test_what_should_never_be_missing_counts_as_the_public_reference():
    age = FEATURES["age_years"]
    assert level_of(age, np.array([np.nan], np.float32)) == level_of(age, np.array([age.reference_mean]))


def test_every_feature_is_counted_with_age():
    assert {b for a, b in cliques(PROGRAMME) if a == "age_years"} == set(PROGRAMME.feature_names) - {
        "age_years"
    }


def test_given_age_the_pairs_are_a_forest_so_the_treewidth_is_two():
    pairs = [c for c in cliques(PROGRAMME) if anchor(PROGRAMME) not in c]
    group = {name: name for name in PROGRAMME.feature_names}

    def root(name: str) -> str:
        return name if group[name] == name else root(group[name])

    for a, b in pairs:
        assert root(a) != root(b), "a cycle"
        group[root(a)] = root(b)
    assert len(cliques(PROGRAMME)) <= 2 * len(PROGRAMME.features) - 3


def test_the_clinical_pairs_are_counted():
    pairs = {frozenset(c) for c in cliques(PROGRAMME)}
    assert {
        frozenset({"body_mass_index_kg_m2", "fatty_liver"}),
        frozenset({"fatty_liver", "diabetes_history"}),
        frozenset({"male", "hdl_cholesterol_mg_dl"}),
        frozenset({"systolic_blood_pressure_mmhg", "hypertension"}),
    } <= pairs


def test_the_structure_follows_from_the_programme_alone():
    import msgspec

    other = msgspec.structs.replace(
        PROGRAMME,
        features=tuple(
            f for f in PROGRAMME.features if f.name not in {"fatty_liver", "hdl_cholesterol_mg_dl"}
        ),
    )
    assert companions(other) == {
        "systolic_blood_pressure_mmhg": "body_mass_index_kg_m2",
        "hypertension": "systolic_blood_pressure_mmhg",
        "cardiovascular_history": "ischaemic_heart_disease",
    }
    without_age = msgspec.structs.replace(
        PROGRAMME, features=tuple(f for f in PROGRAMME.features if f.kind is not FeatureKind.AGE)
    )
    # Without an age the first feature ties the others together.
    assert {a for a, _ in cliques(without_age)[: len(without_age.features) - 1]} == {"male"}


def test_sites_are_added_up(real):
    half = len(real) // 2
    parts = [count_marginals(PROGRAMME, real.take(np.arange(*r))) for r in ((0, half), (half, len(real)))]
    whole = count_marginals(PROGRAMME, real)
    summed = sum_sites(PROGRAMME, parts)
    assert all((summed[name] == whole[name]).all() for name in whole)


@pytest.mark.parametrize("fault", ["name", "shape", "dtype", "none"])
def test_tables_of_another_domain_are_refused(real, fault):
    tables = count_marginals(PROGRAMME, real)
    first = next(iter(tables))
    if fault == "name":
        tables.pop(first)
    elif fault == "shape":
        tables[first] = tables[first][:-1]
    elif fault == "dtype":
        tables[first] = tables[first].astype(float)
    with pytest.raises(GemelError, match="GEM701"):
        sum_sites(PROGRAMME, [] if fault == "none" else [tables])


def test_another_programmes_data_are_not_counted(real):
    import dataclasses

    renamed = dataclasses.replace(real, features=tuple(reversed(real.features)))
    with pytest.raises(GemelError, match="GEM701"):
        count_marginals(PROGRAMME, renamed)


def test_a_value_on_an_edge_stays_on_its_side_in_float32():
    feature = Feature(
        name="x",
        title="x",
        kind=FeatureKind.LAST,
        unit="1",
        low=0,
        high=1,
        reference_mean=0.5,
        scale=0.1,
        bin_edges=(0, 0.1, 0.7, 1),
        source="test",
    )
    assert level_of(feature, np.array([0.1, 0.7], np.float32)).tolist() == [1, 2]


def test_levels_of_the_toy_population_fill_the_declared_range(real):
    codes = encode(PROGRAMME, real.values)
    assert all(codes[f.name].min() >= 0 and codes[f.name].max() < levels(f) for f in PROGRAMME.features)
    assert table_name(("a", "b")) in {"marginal/a*b"}


def test_a_feature_without_bins_of_its_own_gets_public_ones_within_its_bounds():
    import msgspec

    bare = msgspec.structs.replace(FEATURES["body_mass_index_kg_m2"], bin_edges=())
    assert edges_of(bare) == (15, 19.0, 25.0, 31.0, 37.0, 60)
    assert levels(bare) == 6
    flag = msgspec.structs.replace(FEATURES["fatty_liver"], bin_edges=())
    assert edges_of(flag) == (0, 0.5, 1)


def test_whatever_may_be_missing_by_its_declaration_has_a_level_for_it():
    import msgspec

    body = FEATURES["body_mass_index_kg_m2"]
    for kind in (FeatureKind.FIRST, FeatureKind.MEAN, FeatureKind.MAX):
        assert may_be_missing(msgspec.structs.replace(body, kind=kind))
    assert not may_be_missing(msgspec.structs.replace(body, missing=Missing.EXCLUDE))
    assert not may_be_missing(FEATURES["age_years"])
