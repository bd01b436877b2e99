"""The three rounds over hospitals: what each releases, what it costs, and what nodes refuse to count."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from any_synthesis import a_choice
from cardiometabolic import PROGRAMME
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import small_study

from gemel.core.arrays import Arrays, check_arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.mechanism import noisy_tables
from gemel.core.study import AggregationPlan, Masking, Study, parse_study
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.accounting import epsilon
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation.plan import as_added, layout_of
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import (
    Summed,
    check_choice,
    cohort_model,
    count_round,
    declared_choice,
    declared_tables,
    outcome,
    release,
    released_scores,
    synthesis_plan,
)

DOMAIN = domain_of(PROGRAMME)
SCORED = declared_choice(ROUNDS[2], DOMAIN)["parents"].shape[0]


def study_of(hospitals: int, *, whole: float = 4.0, **changes: object) -> Study:
    study = small_study({f"s{i}": f"{i:064x}" for i in range(hospitals)}, of=PROGRAMME, **changes)
    payload = study.to_payload()
    payload["privacy"]["synthesis_noise_multiplier"] = whole
    return parse_study(payload)


def federated(study: Study, sites: list[Dataset], *, seed: int = 0) -> dict[str, np.ndarray]:
    """All three rounds; what cohorts are drawn from."""
    noise, whole = NoiseSource.for_tests(seed), as_added(study).privacy.synthesis_noise_multiplier
    sums: dict[str, Summed] = {}
    chosen: Arrays = {}
    for task in ROUNDS:
        inputs = {name: chosen[name] for name in declared_choice(task, DOMAIN)}
        check_arrays(inputs, declared_choice(task, DOMAIN))
        releases = [
            release(task, DOMAIN, DOMAIN.encode(s), whole=whole, choice=inputs, noise=noise) for s in sites
        ]
        for one in releases:
            check_arrays(one, declared_tables(task, DOMAIN))
        total = {
            name: np.sum([one[name] for one in releases], axis=0, dtype=np.int64) for name in releases[0]
        }
        sums[task] = Summed(total, len(sites))
        chosen = outcome(study, DOMAIN, sums)
    return dict(chosen)


@settings(max_examples=15, deadline=None)
@given(
    levels=st.lists(
        st.integers(-500, 5000), min_size=sum(DOMAIN.sizes.values()), max_size=sum(DOMAIN.sizes.values())
    ),
    parents=st.lists(st.integers(-1, SCORED - 1), min_size=SCORED, max_size=SCORED),
)
def test_whatever_is_chosen_the_tables_together_cost_what_was_charged(
    levels: list[int], parents: list[int]
) -> None:
    # Any forest: a column's parent is one before it.
    forest = [min(parent, number - 1) for number, parent in enumerate(parents)]
    choice = {"levels": np.array(levels), "parents": np.array(forest), "multiplier": np.array([1000])}
    codes = {name: np.zeros(3, np.intp) for name in DOMAIN.names}
    counted = count_round(ROUNDS[2], DOMAIN, codes, whole=4.0, choice=choice)
    charged = synthesis_plan(DOMAIN).mechanism(ROUNDS[2], 4.0)
    assert sum(sigma**-2 for _, sigma in counted) <= charged.noise_multiplier**-2 * (1 + 1e-9)
    assert sum(table.size for table, _ in counted) <= declared_tables(ROUNDS[2], DOMAIN)["tables"].shape[0]
    assert all(table.sum() == 3 for table, _ in counted)


def test_the_first_round_counts_as_often_and_as_noisily_as_it_is_charged() -> None:
    codes = {name: np.zeros(3, np.intp) for name in DOMAIN.names}
    counted = count_round(ROUNDS[0], DOMAIN, codes, whole=4.0, choice={})
    charged = synthesis_plan(DOMAIN).mechanism(ROUNDS[0], 4.0)
    assert len(counted) == charged.count
    assert all(sigma == pytest.approx(charged.noise_multiplier, rel=1e-12) for _, sigma in counted)


@pytest.mark.parametrize("task", ROUNDS)
def test_what_one_patient_changes_in_all_tables_over_their_noise_is_what_is_charged(
    task: str, real: Dataset
) -> None:
    some = real.take(np.arange(len(real)) < 200)
    whole = {name: codes.copy() for name, codes in DOMAIN.encode(some).items()}
    choice, charged = a_choice(DOMAIN, task, levels=100), synthesis_plan(DOMAIN).mechanism(task, 4.0)
    full = count_round(task, DOMAIN, whole, whole=4.0, choice=choice)
    for left_out in (0, 17, 199):
        rest = {name: np.delete(codes, left_out) for name, codes in whole.items()}
        fewer = count_round(task, DOMAIN, rest, whole=4.0, choice=choice)
        change = sum(
            float(np.square(table - other).sum()) / sigma**2
            for (table, sigma), (other, _) in zip(full, fewer, strict=True)
        )
        assert change <= charged.count / charged.noise_multiplier**2 * (1 + 1e-9)


def test_a_score_of_several_sums_costs_what_is_charged_for_one_count_by_the_accountant() -> None:
    """Four sums that a patient changes by one each, with twice the noise, and one with it."""
    for sigma in (1.5, 4.0, 40.0):
        one, four = (noisy_tables(sigma * math.sqrt(k), k) for k in (1, 4))
        assert epsilon([four], delta=1e-5) <= epsilon([one], delta=1e-5) * (1 + 1e-3)


def test_levels_of_more_people_than_there_are_are_refused() -> None:
    for task in ROUNDS[1:]:
        choice = a_choice(DOMAIN, task)
        choice["levels"][3] = -(10**13)
        with pytest.raises(GemelError, match="GEM720"):
            check_choice(task, DOMAIN, choice)


@pytest.mark.parametrize("multiplier", [-1, 10**13])
def test_noise_that_no_levels_have_is_refused(multiplier: int) -> None:
    choice = a_choice(DOMAIN) | {"multiplier": np.array([multiplier])}
    with pytest.raises(GemelError, match="GEM720"):
        check_choice(ROUNDS[2], DOMAIN, choice)


@pytest.mark.parametrize(
    ("parents", "why"),
    [
        ([SCORED, *[0] * (SCORED - 1)], "a column that there is not"),
        ([-2, *[0] * (SCORED - 1)], "a number that means nothing"),
        ([0, *[0] * (SCORED - 1)], "its own parent"),
        ([1, 0, *[0] * (SCORED - 2)], "two that are each other's parents"),
        ([1, 2, 0, *[0] * (SCORED - 3)], "a cycle of three"),
    ],
)
def test_what_is_no_tree_of_public_columns_is_refused(parents: list[int], why: str) -> None:
    choice = a_choice(DOMAIN) | {"parents": np.array(parents, np.int64)}
    with pytest.raises(GemelError, match="GEM720"):
        check_choice(ROUNDS[2], DOMAIN, choice)
    with pytest.raises(GemelError, match="GEM720"):
        count_round(ROUNDS[2], DOMAIN, {}, whole=4.0, choice=choice)


def test_a_person_at_two_hospitals_pays_the_price_in_each_ledger_once() -> None:
    """Two releases with sqrt(2) times the noise cost what the ledger charges for one."""
    study = study_of(3, whole=5.0)
    added = as_added(study).privacy.synthesis_noise_multiplier
    assert added == pytest.approx(5.0 * math.sqrt(2))
    charged = [m for task in ROUNDS for m in study.charge(task).mechanisms]
    twice = [m for task in ROUNDS for m in (study.synthesis.mechanism(task, added),) * 2]
    assert epsilon(twice, delta=1e-5) == pytest.approx(epsilon(charged, delta=1e-5), abs=1e-4)


def test_in_a_masked_sum_the_hospitals_that_are_surely_there_add_a_persons_noise() -> None:
    plan = AggregationPlan(masking=Masking.SECURE, distributed_noise=True, dropouts=1)
    study = study_of(5, whole=5.0, aggregation=plan)
    added = as_added(study).privacy.synthesis_noise_multiplier
    assert added * math.sqrt(4) == pytest.approx(2 * 5.0)  # a person changes the sum by two


def test_what_leaves_a_hospital_in_three_rounds_is_small() -> None:
    specs = [spec for task in ROUNDS for spec in declared_tables(task, DOMAIN).values()]
    assert sum(4 * spec.shape[0] for spec in specs) <= 50_000
    assert all(layout_of(declared_tables(task, DOMAIN), sites=500).ring.bits == 32 for task in ROUNDS)


def test_sums_of_hospitals_are_what_one_hospital_would_have_counted(real: Dataset) -> None:
    parts = [real.take(np.arange(len(real)) % 3 == i) for i in range(3)]
    choice = a_choice(DOMAIN)
    for task in ROUNDS:
        inputs = {name: choice[name] for name in declared_choice(task, DOMAIN)}
        whole = count_round(task, DOMAIN, DOMAIN.encode(real), whole=4.0, choice=inputs)
        each = [count_round(task, DOMAIN, DOMAIN.encode(part), whole=4.0, choice=inputs) for part in parts]
        for number, (table, _) in enumerate(whole):
            assert np.array_equal(table, sum(one[number][0] for one in each))


def test_over_hospitals_a_cohort_is_as_close_as_the_noise_lets_it_be(real: Dataset) -> None:
    parts = [real.take(np.arange(len(real)) % 3 == i) for i in range(3)]
    study = study_of(3, whole=0.3)
    model = cohort_model(study, DOMAIN, federated(study, parts))
    assert model.total == pytest.approx(len(real), rel=0.02)
    truth = DOMAIN.encode(real)
    for name in ("age_years", "male", "fatty_liver", "diabetes_history"):
        shares = np.bincount(truth[name], minlength=DOMAIN.sizes[name]) / len(real)
        assert np.abs(model.marginal(name) - shares).sum() / 2 < 0.03, name


def test_the_scores_that_chose_the_tree_are_kept_with_their_noise(real: Dataset) -> None:
    study = study_of(2, whole=1.0)
    measured = federated(study, [real, real])
    scored, sums, sigma = released_scores(study, DOMAIN, measured)
    exact = scored.count(DOMAIN.encode(real))
    apart = [
        (noisy - 2 * once).ravel() / noise
        for noisy, once, noise in zip(sums, exact, scored.sigmas(sigma), strict=True)
    ]
    assert np.std(np.concatenate(apart)) == pytest.approx(1.0, abs=0.15)


def test_twenty_hospitals_some_without_patients_or_with_one_or_without_a_column_make_one_cohort(
    real: Dataset,
) -> None:
    place = np.arange(len(real)) % 16
    parts = [real.take(place == i) for i in range(16)]
    nobody, alone = real.take(np.arange(len(real)) < 0), real.take(np.arange(len(real)) == 5)
    never_measured = parts[3].values.copy()
    never_measured[:, real.features.index("hdl_cholesterol_mg_dl")] = np.nan
    parts[3] = dataclasses.replace(parts[3], values=never_measured)
    study = study_of(20, whole=0.2)
    measured = federated(study, [*parts, nobody, nobody, alone, alone])
    assert measured["hospitals"].tolist() == [20] * 3
    model = cohort_model(study, DOMAIN, measured)
    assert model.total == pytest.approx(len(real) + 2, rel=0.02)
    drawn = model.sample(5000, seed=1)
    assert np.mean(drawn["male"] == 1) == pytest.approx(np.mean(DOMAIN.encode(real)["male"] == 1), abs=0.03)


@pytest.mark.parametrize("task", ROUNDS)
def test_a_hospital_of_one_or_nobody_releases_as_much_as_any_other(task: str, real: Dataset) -> None:
    """Nothing about a release but its numbers depends on patients: neither its length nor whether it fails."""
    some = [real.take(np.arange(len(real)) < n) for n in (0, 1, 300)]
    noise, choice = NoiseSource.for_tests(0), a_choice(DOMAIN, task)
    for dataset in some:
        codes = DOMAIN.encode(dataset)
        check_arrays(
            release(task, DOMAIN, codes, whole=3.0, choice=choice, noise=noise), declared_tables(task, DOMAIN)
        )


def test_the_same_sums_lead_to_the_same_bytes(real: Dataset) -> None:
    study = study_of(2)
    one, other = (federated(study, [real, real], seed=3) for _ in range(2))
    assert {name: array.tobytes() for name, array in one.items()} == {
        name: array.tobytes() for name, array in other.items()
    }
