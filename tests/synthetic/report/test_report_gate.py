"""The release gate: what passes, what is refused, and what an override leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.synthetic.report import Audience, Finding, Outcome, Override, Report, Verdict, decide
from gemel.synthetic.report.gate import REQUIRED

MODEL = "ab" * 32
OVERRIDE = Override("A. Officer", "only for teaching", "2026-11-26T10:00:00Z")


def row(block: str, verdict: Verdict = Verdict.PASS, *, measure: str = "it", gates: bool = True) -> Finding:
    return Finding(block, measure, 0.1, None, None, None, "≤ 1", verdict, internal=True, gates=gates)


def report(*more: Finding, left_out: str = "") -> Report:
    rows = [row(block) for block in REQUIRED if block != left_out]
    return Report("a ward", MODEL, (*rows, *more), {}, {}, attacks=2000, salt="00")


def decided(made: Report, override: Override | None = None):
    return decide(made.document(Audience.INTERNAL), model_sha256=MODEL, override=override)


def test_a_report_whose_rows_all_pass_releases_its_model_and_is_named_by_its_hash():
    made = report(
        row("fairness", Verdict.NOT_TESTED), row("released tables", Verdict.INFORMATION, gates=False)
    )
    decision = decided(made)
    assert decision.outcome is Outcome.PASSED
    assert (decision.failed, decision.untested, decision.override) == ((), (), None)
    assert decision.report_sha256 == document_hash(made.document(Audience.INTERNAL))
    assert decision.as_dict()["outcome"] == "passed"


@pytest.mark.parametrize("block", REQUIRED)
def test_each_required_block_must_be_there_and_have_been_tested(block):
    with pytest.raises(GemelError, match=block) as missing:
        decided(report(left_out=block))
    assert missing.value.code == "GEM755"
    assert missing.value.exit_code == 3
    with pytest.raises(GemelError, match=f"1 not tested: {block}: it"):
        decided(report(row(block, Verdict.NOT_TESTED)))
    # A row for information is not a test.
    with pytest.raises(GemelError, match=block):
        decided(report(row(block, Verdict.INFORMATION, gates=False), left_out=block))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*REQUIRED, "fairness", "smoke test"]),
            st.sampled_from(list(Verdict)),
            st.booleans(),
        )
    )
)
@settings(max_examples=60)
def test_a_report_passes_exactly_when_no_row_that_decides_stands_against_it(rows):
    found = [row(block, verdict, gates=gates) for block, verdict, gates in rows]
    against = [
        f
        for f in found
        if f.gates
        and (
            f.verdict in (Verdict.FAIL, Verdict.INFORMATION)
            or (f.verdict is Verdict.NOT_TESTED and f.block in REQUIRED)
        )
    ]
    made = report(*found)
    if not against:
        assert decided(made).outcome is Outcome.PASSED
        return
    with pytest.raises(GemelError):
        decided(made)
    decision = decided(made, OVERRIDE)
    assert decision.outcome is Outcome.OVERRIDDEN
    assert len(decision.failed) + len(decision.untested) == len(against)


def test_an_override_is_recorded_with_who_why_when_and_which_rows_failed():
    decision = decided(report(row("fairness", Verdict.FAIL, measure="by sex")), OVERRIDE).as_dict()
    assert decision["override"] == {
        "by": "A. Officer",
        "reason": "only for teaching",
        "at": "2026-11-26T10:00:00Z",
    }
    assert decision["failed"] == ("fairness: by sex",)
    assert decision["outcome"].startswith("released by a named person")


@pytest.mark.parametrize("left_out", ["by", "reason", "at"])
def test_an_override_without_a_name_a_reason_or_a_time_is_none(left_out):
    with pytest.raises(GemelError, match="GEM755"):
        replace(OVERRIDE, **{left_out: "  "})


def test_not_even_an_override_lets_a_report_speak_for_another_model():
    document = report().document(Audience.INTERNAL)
    with pytest.raises(GemelError, match="GEM756"):
        decide(document, model_sha256="cd" * 32, override=OVERRIDE)


@pytest.mark.parametrize(
    "document",
    [{}, {"findings": []}, {"format": "x", "findings": [], "model_sha256": MODEL, "attacks": 2000}],
)
def test_what_is_no_report_decides_nothing(document):
    with pytest.raises(GemelError, match="GEM756"):
        decide(document, model_sha256=MODEL, override=OVERRIDE)


def test_a_row_without_its_verdict_makes_no_report():
    document = report().document(Audience.INTERNAL)
    del document["findings"][0]["verdict"]
    with pytest.raises(GemelError, match="GEM756"):
        decide(document, model_sha256=MODEL, override=OVERRIDE)


def test_a_changed_verdict_changes_the_hash_that_the_cohort_carries():
    document = report().document(Audience.INTERNAL)
    before = decide(document, model_sha256=MODEL).report_sha256
    document["findings"][0]["value"] = 0.2
    assert decide(document, model_sha256=MODEL).report_sha256 != before


def test_a_public_report_is_refused_unless_somebody_vouches_for_it():
    public = report().document(Audience.PUBLIC)
    with pytest.raises(GemelError, match="GEM755"):
        decide(public, model_sha256=MODEL)
    decision = decide(public, model_sha256=MODEL, vouched=True)
    assert decision.outcome is Outcome.PASSED
    assert decision.report_sha256 == document_hash(report().document(Audience.INTERNAL))


def test_who_vouches_for_a_public_report_vouches_for_its_failures_too():
    public = report(row("pairs", Verdict.FAIL)).document(Audience.PUBLIC)
    with pytest.raises(GemelError, match="1 failed: pairs: it"):
        decide(public, model_sha256=MODEL, vouched=True)
    assert decide(public, model_sha256=MODEL, vouched=True, override=OVERRIDE).failed == ("pairs: it",)


@pytest.mark.parametrize(
    "gate", [None, {}, {"failed": []}, {"failed": 1, "untested": [], "internal_report_sha256": ""}]
)
def test_a_public_document_that_does_not_say_how_the_internal_one_stands_is_no_report(gate):
    public = report().document(Audience.PUBLIC) | {"gate": gate}
    with pytest.raises(GemelError, match="GEM756"):
        decide(public, model_sha256=MODEL, vouched=True, override=OVERRIDE)


def test_vouching_for_an_internal_report_does_not_spare_it_the_gate():
    with pytest.raises(GemelError, match="GEM755"):
        decide(
            report(row("pairs", Verdict.FAIL)).document(Audience.INTERNAL), model_sha256=MODEL, vouched=True
        )


def test_a_report_of_few_attacks_does_not_pass_the_gate():
    quick = replace(report(), attacks=300)
    with pytest.raises(GemelError, match="2,000 of each kind"):
        decided(quick)
    assert decided(quick, OVERRIDE).untested == ("attacks: at least 2,000 of each kind",)


def test_a_refusal_names_three_rows_and_counts_the_others():
    rows = [row("fairness", Verdict.FAIL, measure=f"row {number}") for number in range(9)]
    with pytest.raises(GemelError) as refused:
        decided(report(*rows))
    assert "9 failed: fairness: row 0; fairness: row 1; fairness: row 2; and 6 more." in refused.value.message
