"""A twin calibrated by private summaries: it finds scalars that were moved, no more surely than noise allows, at the stated price."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.statistic_request import SurvivalRequest
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import describe, estimates, sum_tables
from gemel.privacy.statistics.survival import SurvivalResult
from gemel.synthetic.trajectory.calibration import (
    MOST_NUMBERS,
    Calibrated,
    calibrate,
    summaries_asked,
    summaries_statement,
)
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated, whole_statement
from gemel.twins.installed import installed, make_twin
from gemel.twins.programmes.atrial_fibrillation import PROGRAMME
from gemel.twins.reference_cohort import reference_values, sample_cohort

SHIFT = np.array([0.6, -0.5], np.float32)


def calibrated(*, precision: float, patients: int) -> Calibrated:
    """Two hospitals whose events are faster and slower than the twin says."""
    truth = make_twin(PROGRAMME)
    start = truth.to_arrays()
    truth.load_arrays({**start, "level": start["level"] + SHIFT})
    asked = summaries_asked(PROGRAMME, precision=precision)
    values = reference_values(PROGRAMME, 2 * patients, seed=2)
    tables = [
        describe(asked, sample_cohort(truth, part, seed=site), noise=NoiseSource.secure())
        for site, part in enumerate((values[:patients], values[patients:]))
    ]
    found = estimates(asked, sum_tables(asked, tables), hospitals=2)
    return calibrate(make_twin(PROGRAMME), reference_values(PROGRAMME, 3000, seed=5), asked, found)


def test_scalars_that_were_moved_are_found_and_the_summaries_then_fit() -> None:
    found = calibrated(precision=1.0, patients=2500)
    way, error = found.moved["level"]
    assert found.misfit_before > 4 * found.misfit
    assert found.misfit < 4
    assert np.all(np.abs(way - SHIFT) < 5 * np.hypot(error, 0.04))
    assert np.all(error < 0.3)
    arrays, start = found.twin.to_arrays(), make_twin(PROGRAMME).to_arrays()
    assert all(np.array_equal(arrays[name], start[name]) for name in start if name != "level")


def test_where_noise_drowns_the_summaries_the_twin_stays_where_it_was_and_says_how_little_is_known() -> None:
    truth = make_twin(PROGRAMME)
    start = truth.to_arrays()
    truth.load_arrays({**start, "level": start["level"] + SHIFT})
    asked = summaries_asked(PROGRAMME, precision=1.0)
    cohort = sample_cohort(truth, reference_values(PROGRAMME, 2000, seed=1), seed=1)
    found = estimates(asked, describe(asked, cohort, noise=NoiseSource.secure()), hospitals=1)
    vague = [
        msgspec.structs.replace(
            result,
            curves=tuple(
                msgspec.structs.replace(
                    curve,
                    survival=tuple(
                        msgspec.structs.replace(e, standard_error=1000 * (e.standard_error or 0.0))
                        for e in curve.survival
                    ),
                )
                for curve in result.curves
            ),
        )
        for result in found
        if isinstance(result, SurvivalResult)
    ]
    survival = [request for request in asked if isinstance(request, SurvivalRequest)]
    told = calibrate(make_twin(PROGRAMME), cohort.values, survival, vague)
    way, error = told.moved["level"]
    assert np.abs(way).max() < 0.05
    assert error == pytest.approx(1.0, abs=0.05)


def test_numbers_that_tell_nothing_leave_nothing_to_fit() -> None:
    asked = summaries_asked(PROGRAMME, precision=1.0)
    with pytest.raises(GemelError, match="0 numbers") as refused:
        calibrate(make_twin(PROGRAMME), reference_values(PROGRAMME, 10, seed=1), asked, ())
    assert refused.value.code == "GEM731"


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_what_is_asked_is_few_numbers_at_the_precision_that_was_given(programme: Programme) -> None:
    asked = summaries_asked(programme, precision=0.25)
    assert sum(math.prod(request.shape) for request in asked) <= MOST_NUMBERS
    stated = summaries_statement(asked, delta=1e-5)
    assert sum(m.count / m.noise_multiplier**2 for m in stated.mechanisms) == pytest.approx(0.25)
    assert stated.epsilon == pytest.approx(epsilon_of(stated.mechanisms, delta=1e-5))


def test_a_calibrated_twin_says_nothing_of_privacy_without_its_summaries() -> None:
    found = calibrated(precision=1.0, patients=300)
    with pytest.raises(GemelError, match="not differentially private"):
        TwinSimulated(found.twin, visit_days=()).statement()
    cost = summaries_statement(summaries_asked(PROGRAMME, precision=1.0), delta=1e-5)
    stated = TwinSimulated(found.twin, visit_days=(), trained=whole_statement([None, cost])).statement()
    assert stated is not None
    assert stated.epsilon == pytest.approx(cost.epsilon)


def test_what_the_twin_does_not_have_cannot_be_fitted() -> None:
    with pytest.raises(GemelError, match="has no pace"):
        calibrate(make_twin(PROGRAMME), reference_values(PROGRAMME, 10, seed=1), (), (), free=("pace",))
    with pytest.raises(GemelError, match="scalars"):
        calibrate(make_twin(PROGRAMME), reference_values(PROGRAMME, 10, seed=1), (), (), free=("weights",))
