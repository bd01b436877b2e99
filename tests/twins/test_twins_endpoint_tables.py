"""Tables and scores of every kind of endpoint, on a made-up programme of six weeks: each against the exact scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from dropped_programme import dropped_programme
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.dataset import Dataset
from gemel.core.programme import Endpoint, Programme
from gemel.twins import scores
from gemel.twins.endpoint_tables import count_metric_tables, metric_tables, table_of
from gemel.twins.installed import make_twin
from gemel.twins.metrics import Score, loss_of, metrics_from_tables
from gemel.twins.scores import Fate
from gemel.twins.twin import Twin

PATIENTS = 12_000
RISKS = ("dead_or_dependent", "dependent", "death", "diabetes")


@pytest.fixture(scope="module")
def programme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programme]:
    with dropped_programme(tmp_path_factory.mktemp("programmes")) as found:
        yield found


@pytest.fixture(scope="module")
def twin(programme: Programme) -> Twin:
    twin = make_twin(programme)
    with torch.no_grad():
        twin.level += torch.tensor([3.5, 3.0])
        twin.weights[:, 0] = 0.5
        twin.function[:3] = torch.tensor([0.8, 0.2, 0.5])
        twin.diabetes[:3] = torch.tensor([-1.5, 0.6, 0.3])
        twin.pressure[3] = 1.0
    return twin


def people(twin: Twin, *, patients: int, seed: int, lost: float = 0.0, unmeasured: float = 0.0) -> Dataset:
    """Virtual patients of the twin; a share leaves at a random day, a share of the others is not measured."""
    programme, random = twin.programme, np.random.default_rng(seed)
    values = np.stack(
        [
            random.uniform(45, 95, patients),
            random.random(patients) < 0.5,
            np.where(random.random(patients) < 0.2, np.nan, random.normal(150, 22, patients)),
            random.random(patients) < 0.2,
            random.random(patients) < 0.5,
        ],
        axis=1,
    )
    course = twin.simulate(values, seed=seed + 1_000)
    time, event = course.time_years.astype(np.float64), course.event.copy()
    time = np.where(event == -1, 0.0, np.ceil(time * 365.25)) / 365.25
    targets = np.stack([course.targets[n] for n in ("rankin", "pressure_later", "diabetes_later")], axis=1)
    died = (event[:, 0] == 1)[:, None]
    day = np.array([42.0, 28.0, 28.0]) / 365.25
    targets[:, :2] = np.where(died & (time[:, :1] <= day[:2] + 1e-6), np.nan, targets[:, :2])
    # Whoever leaves: nothing is known from then on.
    ends = np.where(random.random(patients) < lost, random.integers(1, 42, patients), 99)[:, None] / 365.25
    gone = (event != -1) & (time > ends)
    left = gone[:, 0]
    # Diabetes comes on a day of its own, before a death; whoever leaves after that day is known to have it.
    onset = random.random(patients) * np.minimum(time[:, 0], day[2])
    time, event = np.where(gone, ends, time), np.where(gone, 0, event)
    unknown = left[:, None] & (ends < day - 1e-6)
    unknown[:, 2] &= ~((targets[:, 2] == 1) & (onset <= ends[:, 0]))
    targets[unknown] = np.nan
    targets[random.random(patients) < unmeasured, :2] = np.nan
    targets[values[:, 3] == 1, 2] = np.nan
    dead = np.where(event[:, 0] == 1, 1.0, np.where(left, np.nan, 0.0))
    return Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        tuple(f"{i:064x}" for i in range(patients)),
        values.astype(np.float32),
        time.astype(np.float32),
        event.astype(np.int8),
        programme.target_names,
        np.column_stack([targets, dead]).astype(np.float32),
    )


@pytest.fixture(scope="module")
def whole(twin: Twin) -> Dataset:
    return people(twin, patients=PATIENTS, seed=5)


@pytest.fixture(scope="module")
def partly_known(twin: Twin) -> Dataset:
    return people(twin, patients=PATIENTS, seed=5, lost=0.3, unmeasured=0.2)


def endpoint_of(programme: Programme, name: str) -> Endpoint:
    return next(endpoint for endpoint in programme.endpoints if endpoint.name == name)


def test_the_tables_have_the_shapes_of_their_kinds(programme: Programme) -> None:
    shapes = {name: spec.shape for name, spec in metric_tables(programme).items()}
    assert shapes == {
        "dead_or_dependent": (6, 5),
        "dependent": (6, 5),
        "death": (7, 7),
        "diabetes": (6, 5),
        "pressure": (7, 8),
    }


def test_everybody_at_risk_is_in_one_cell_and_nobody_else_in_any(
    programme: Programme, twin: Twin, partly_known: Dataset
) -> None:
    tables = count_metric_tables(programme, twin.predict(partly_known.values), partly_known)
    died = (partly_known.event[:, 0] == 1).sum()
    had_it = partly_known.values[:, 3] == 1
    # Who had diabetes is out once it is known that the day was reached; who left before is a stand-in case either way.
    reached = (partly_known.time_years[:, 0] >= 28 / 365.25 - 1e-4) | (partly_known.event[:, 0] == 1)
    assert tables["dead_or_dependent"].sum() == tables["death"].sum() == PATIENTS
    assert tables["dependent"].sum() == PATIENTS - died
    assert tables["diabetes"].sum() == PATIENTS - (had_it & reached).sum()
    assert tables["pressure"].sum() == PATIENTS
    for name, table in tables.items():
        columns = table_of(programme, endpoint_of(programme, name))
        assert table[:, ~columns.possible].sum() == 0, "what is called impossible never happens"
    assert tables["dead_or_dependent"][:, Fate.DIED].sum() == died


@settings(max_examples=25, deadline=None)
@given(leaver=st.integers(0, 299), odd=st.sampled_from([np.nan, np.inf, -5.0, 1e9]))
def test_one_patient_changes_each_table_by_at_most_one_whatever_is_recorded_of_it(
    programme: Programme, twin: Twin, leaver: int, odd: float
) -> None:
    data = people(twin, patients=300, seed=9, lost=0.3, unmeasured=0.2)
    targets, time = data.targets.copy(), data.time_years.copy()
    targets[leaver], time[leaver] = odd, abs(odd)
    data = replace(data, targets=targets, time_years=time)
    stay = np.arange(300) != leaver
    whole = count_metric_tables(programme, twin.predict(data.values), data)
    fewer = count_metric_tables(programme, twin.predict(data.values[stay]), data.take(stay))
    for name, table in whole.items():
        difference = table - fewer[name]
        assert difference.min() >= 0
        assert difference.sum() <= 1


@pytest.mark.parametrize("name", RISKS)
def test_who_is_known_stands_for_who_is_not(
    programme: Programme, twin: Twin, whole: Dataset, partly_known: Dataset, name: str
) -> None:
    endpoint = endpoint_of(programme, name)
    exact = scores.followed_to(programme, endpoint, whole)[-1]
    some = scores.followed_to(programme, endpoint, partly_known)[-1]
    share, estimate = (
        (group.weight * group.case).sum() / np.count_nonzero(group.at_risk) for group in (exact, some)
    )
    assert exact.weight[exact.at_risk] == pytest.approx(1)
    naive = some.case[some.weight > 0].mean()
    assert estimate == pytest.approx(share, abs=0.012)
    assert abs(estimate - share) <= abs(naive - share) + 0.004
    assert some.weight.sum() == pytest.approx(np.count_nonzero(some.at_risk), rel=0.02)


@pytest.mark.parametrize("data", ["whole", "partly_known"])
def test_without_noise_the_tables_give_nearly_the_exact_scores(
    programme: Programme, twin: Twin, data: str, request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(data)
    prediction = twin.predict(dataset.values)
    tables = count_metric_tables(programme, prediction, dataset)
    for name, released in metrics_from_tables(twin, tables, noise_sigma=0.0).items():
        exact = scores.endpoint_scores(programme, endpoint_of(programme, name), prediction, dataset)
        assert set(released) <= set(exact)
        for score, found in released.items():
            # Bins of 15 raise the squared error of 20 by a sixth of their square, the open ones by more.
            near = 0.15 * exact[score] if score == "rmse" else 3.0 if score == "mean_error" else 0.03
            assert found.value == pytest.approx(exact[score], abs=near), (name, score)


def test_the_true_twin_is_right_on_its_own_people(programme: Programme, twin: Twin, whole: Dataset) -> None:
    prediction = twin.predict(whole.values)
    for name in RISKS:
        exact = scores.endpoint_scores(programme, endpoint_of(programme, name), prediction, whole)
        ratios = [value for score, value in exact.items() if score.startswith("observed_over_expected")]
        assert ratios == pytest.approx([1.0] * len(ratios), abs=0.06), name
    error = scores.endpoint_scores(programme, endpoint_of(programme, "pressure"), prediction, whole)
    assert error["rmse"] == pytest.approx(20.0, rel=0.03)
    assert error["mean_error"] == pytest.approx(0.0, abs=0.6)


def test_a_death_before_the_day_is_an_event_only_where_it_is_said_to_be(
    programme: Programme, whole: Dataset
) -> None:
    died = whole.event[:, 0] == 1
    with_death, living = (endpoint_of(programme, n) for n in ("dead_or_dependent", "dependent"))
    known, event = scores.observed(programme, with_death, whole)
    assert known.all()
    assert event[died].all()
    assert (scores.fates(programme, living, whole)[died] == Fate.NOT_AT_RISK).all()


def test_noise_moves_no_score_further_than_its_error_says(
    programme: Programme, twin: Twin, partly_known: Dataset
) -> None:
    tables = count_metric_tables(programme, twin.predict(partly_known.values), partly_known)
    quiet, sigma = metrics_from_tables(twin, tables, noise_sigma=0.0), 12.0
    off: dict[tuple[str, str], list[float]] = {}
    for seed in range(12):
        random = np.random.default_rng(seed)
        noisy = {n: t + np.rint(random.normal(0, sigma, t.shape)).astype(np.int64) for n, t in tables.items()}
        for name, of in metrics_from_tables(twin, noisy, noise_sigma=sigma).items():
            for score, found in of.items():
                assert found.standard_error > quiet[name][score].standard_error
                distance = (found.value - quiet[name][score].value) / found.standard_error
                off.setdefault((name, score), []).append(distance)
    for which, distances in off.items():
        assert np.abs(distances).max() < 3.5, which
        assert abs(np.mean(distances)) < 1, which


def test_every_endpoint_has_one_loss_between_0_and_1(
    programme: Programme, twin: Twin, whole: Dataset
) -> None:
    tables = count_metric_tables(programme, twin.predict(whole.values), whole)
    found = metrics_from_tables(twin, tables, noise_sigma=1.0)
    for endpoint in programme.endpoints:
        loss = loss_of(programme, endpoint, found[endpoint.name])
        assert isinstance(loss, Score)
        assert 0 < loss.value < 0.3
        assert 0 < loss.standard_error < 0.1
