"""The privacy statement: what is missing from it, what it means, and whether its ε is what its mechanisms cost."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemel.core.mechanism import Mechanism, MechanismKind, noisy_tables
from gemel.privacy.accounting import epsilon
from gemel.synthetic.provenance import PrivacyStatement, read_provenance
from gemel.synthetic.report import Statement, Verdict
from gemel.synthetic.report.statement import most_true_positives, statement_rows


def promise(
    *mechanisms: Mechanism, noise: str = "secure", epsilon_stated: float | None = None
) -> PrivacyStatement:
    spent = epsilon(mechanisms, delta=1e-5) if epsilon_stated is None else epsilon_stated
    return PrivacyStatement(
        epsilon=spent,
        delta=1e-5,
        mechanisms=mechanisms,
        unit="patient",
        neighbouring="add or remove one patient",
        noise=noise,
    )


TABLES = promise(noisy_tables(20.0, 25), noisy_tables(18.0, 40))
WHOLE = promise(noisy_tables(20.0, 25), noisy_tables(18.0, 40), noisy_tables(6.0, 1))
COMPLETE = Statement(TABLES, WHOLE, 2, 3, 3, "ab" * 32, 0.0)


def rows_of(statement, patients=3000.0):
    return {row.measure: row for row in statement_rows(statement, source_patients=patients)}


def failed(rows):
    return [measure for measure, row in rows.items() if row.gates and row.verdict is not Verdict.PASS]


def test_a_complete_statement_within_the_thresholds_passes_and_all_of_it_is_public():
    rows = rows_of(COMPLETE)
    assert failed(rows) == []
    assert not any(row.internal for row in rows.values())


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        ({"honest_hospitals": None}, "honest"),
        ({"record_sha256": None}, "record of charges"),
        ({"earlier_epsilon": None}, "earlier cohorts"),
    ],
)
def test_each_part_that_is_missing_is_named_and_fails(changes, gap):
    rows = rows_of(replace(COMPLETE, **changes))
    row = rows["parts of the statement that are missing"]
    assert row.verdict is Verdict.FAIL
    assert gap in row.detail
    assert failed(rows) == [row.measure]


def test_without_a_statement_the_block_is_not_tested():
    (row,) = statement_rows(None, source_patients=3000.0)
    assert (row.block, row.verdict, row.gates) == ("statement", Verdict.NOT_TESTED, True)


def test_more_than_three_in_all_fails_and_so_does_what_earlier_cohorts_bring_it_to():
    dear = promise(noisy_tables(1.2, 1))
    assert dear.epsilon > 3
    assert "ε of all that the study released" in failed(rows_of(replace(COMPLETE, whole=dear)))
    again = rows_of(replace(COMPLETE, earlier_epsilon=2.5))
    assert failed(again) == ["ε together with earlier cohorts of these patients"]


def test_a_delta_of_a_tenth_of_a_patient_passes_one_of_more_fails_and_an_unknown_number_is_not_tested():
    measure = "δ times the number of patients"
    assert rows_of(COMPLETE, 9_900.0)[measure].verdict is Verdict.PASS
    assert rows_of(COMPLETE, 30_000.0)[measure].verdict is Verdict.FAIL
    assert rows_of(COMPLETE, None)[measure].verdict is Verdict.NOT_TESTED
    # The number of patients is told to two figures, here too.
    assert rows_of(COMPLETE, 3049.0)[measure].value == rows_of(COMPLETE, 2951.0)[measure].value


def test_an_epsilon_below_what_the_mechanisms_cost_is_found_out():
    lying = promise(noisy_tables(2.0, 1), epsilon_stated=1.0)
    rows = rows_of(replace(COMPLETE, whole=lying, tables=lying))
    assert failed(rows) == ["ε stated below what the mechanisms cost, composed again"]


def test_test_noise_fails_and_the_words_say_so():
    statement = replace(COMPLETE, tables=promise(noisy_tables(20.0, 25), noise="test"))
    assert failed(rows_of(statement)) == ["noise from the operating system's secure source"]
    assert any("no guarantee" in words for words in statement.words())
    assert not any("no guarantee" in words for words in COMPLETE.words())


@given(st.floats(0.3, 20.0), st.integers(1, 50))
@settings(max_examples=6, deadline=None)
def test_true_positives_are_those_of_the_gaussian_trade_off(noise, count):
    mechanism = Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=noise, count=count)
    exact = stats.norm.sf(stats.norm.isf(0.01) - math.sqrt(count) / noise)
    found = most_true_positives((mechanism,))
    assert exact - 1e-6 <= found <= exact * 1.03 + 0.002


def test_the_document_gives_rho_sigma_and_sensitivity_of_each_table():
    document = COMPLETE.as_dict()
    assert document["rho"] == pytest.approx(25 / (2 * 20**2) + 40 / (2 * 18**2))
    assert [m["sigma"] for m in document["tables"]["mechanisms"]] == [40.0, 36.0]
    assert {m["sensitivity"] for m in document["tables"]["mechanisms"]} == {2.0}
    alone = replace(COMPLETE, honest_hospitals=0).as_dict()
    assert alone["tables"]["mechanisms"][0]["sensitivity"] == pytest.approx(math.sqrt(2))
    assert any("Nobody has to be trusted" in words for words in alone["words"])
    assert json.loads(json.dumps(document, allow_nan=False))["hospitals"] == 3


def test_a_statement_is_read_off_a_studys_provenance(provenance):
    document = {**provenance, "certificate_sha256": "cd" * 32}
    statement = Statement.of_provenance(read_provenance(document), honest_hospitals=0, earlier_epsilon=0.0)
    assert (statement.hospitals, statement.sites_of_a_person, statement.record_sha256) == (3, 2, "cd" * 32)
    assert statement.missing == ()
