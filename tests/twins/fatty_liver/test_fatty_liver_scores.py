"""FIB-4 and the NAFLD fibrosis score are those that were published; the Cox model is the one that others fit."""

from __future__ import annotations

import lifelines
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.programmes.fatty_liver.cox import log_hazard_ratios
from gemel.twins.programmes.fatty_liver.published_scores import (
    AGE_AND_SEX,
    BASELINES,
    FIB_4,
    FIB_4_CUT_OFFS,
    NFS,
    NFS_CUT_OFFS,
    fib_4,
    nafld_fibrosis_score,
)

KNOWN = {
    "age_years": 60.0,
    "male": 1.0,
    "body_mass_index_kg_m2": 30.0,
    "diabetes_history": 1.0,
    "aspartate_aminotransferase_u_l": 40.0,
    "alanine_aminotransferase_u_l": 36.0,
    "platelets_10e9_l": 200.0,
    "albumin_g_dl": 4.0,
}


def row(**changes):
    values = {**KNOWN, **changes}
    return np.array([[values.get(name, np.nan) for name in PROGRAMME.feature_names]])


@pytest.mark.parametrize(
    ("age", "ast", "alt", "platelets", "score"),
    [(60, 40, 36, 200, 2.0), (45, 30, 25, 250, 1.08), (65, 100, 64, 130, 6.25), (35, 20, 16, 350, 0.5)],
)
def test_fib_4_by_hand(age, ast, alt, platelets, score):
    found = fib_4(*(np.array([float(x)]) for x in (age, ast, alt, platelets)))
    assert found[0] == pytest.approx(score, rel=1e-12)


def test_the_nafld_fibrosis_score_by_hand():
    # -1.675 + 0.037*60 + 0.094*30 + 1.13 + 0.99*40/36 - 0.013*200 - 0.66*4
    found = nafld_fibrosis_score(*(np.array([x]) for x in (60.0, 30.0, 1.0, 40.0, 36.0, 200.0, 4.0)))
    assert found[0] == pytest.approx(0.355, abs=1e-12)


def test_the_cut_offs_are_the_published_ones():
    assert FIB_4_CUT_OFFS == (1.30, 2.67)
    assert NFS_CUT_OFFS == (-1.455, 0.676)


@pytest.mark.parametrize("score", BASELINES, ids=lambda s: s.name)
def test_a_score_is_missing_where_one_of_its_inputs_is(score):
    assert np.isfinite(score(row(), PROGRAMME)).all()
    for name in score.inputs:
        assert np.isnan(score(row(**{name: np.nan}), PROGRAMME)).all()


@given(st.floats(20, 90), st.floats(10, 300), st.floats(10, 300), st.floats(50, 500))
def test_fib_4_rises_with_age_and_ast_and_falls_with_alt_and_platelets(age, ast, alt, platelets):
    def at(**changes):
        given_values = {"age": age, "ast": ast, "alt": alt, "platelets": platelets, **changes}
        return fib_4(*(np.array([given_values[n]]) for n in ("age", "ast", "alt", "platelets")))[0]

    assert at(age=age + 1) > at() > at(alt=alt + 1)
    assert at(ast=ast + 1) > at() > at(platelets=platelets + 1)


def test_the_scores_read_the_programmes_features():
    assert FIB_4(row(), PROGRAMME)[0] == pytest.approx(2.0)
    assert NFS(row(), PROGRAMME)[0] == pytest.approx(0.355)
    older = AGE_AND_SEX(row(age_years=61.0), PROGRAMME) - AGE_AND_SEX(row(), PROGRAMME)
    assert np.exp(older[0]) == pytest.approx(1.105)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_the_cox_model_is_that_of_lifelines():
    random = np.random.default_rng(5)
    covariates = np.column_stack([random.normal(size=300), random.random(300) < 0.4])
    time = random.exponential(np.exp(-covariates @ [0.7, -0.5]))
    event = random.random(300) < 0.7
    beta, error = log_hazard_ratios(time, event, covariates)
    table = pd.DataFrame({"a": covariates[:, 0], "b": covariates[:, 1], "t": time, "e": event})
    theirs = lifelines.CoxPHFitter().fit(table, "t", "e")
    np.testing.assert_allclose(beta, theirs.params_.to_numpy(), rtol=1e-4)
    np.testing.assert_allclose(error, theirs.standard_errors_.to_numpy(), rtol=1e-4)


def test_people_with_one_time_share_a_risk_set():
    # Two people who leave at one time, one with the event: both are at risk of it, whatever their order in the data.
    covariates = np.array([[1.0], [0.0], [1.0], [0.0]])
    time, event = np.array([1.0, 1.0, 2.0, 2.0]), np.array([True, False, False, True])
    one, _ = log_hazard_ratios(time, event, covariates)
    other, _ = log_hazard_ratios(time[::-1], event[::-1], covariates[::-1])
    assert one == pytest.approx(other)
    assert one[0] == pytest.approx(0.0, abs=1e-9)
