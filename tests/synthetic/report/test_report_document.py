"""The two documents of a report: what stands in both, and that no exact number of a patient stands in the public one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.synthetic.report import Audience, Evidence, Finding, Report, Source, Verdict, make
from gemel.synthetic.report.attacks import Effort
from gemel.synthetic.report.document import rounded, worst

LITTLE = Effort(attacks=40, people=40, shadows=2, releases=0)
SECRET, OPEN = (
    st.integers(-(10**6), 10**6).map(lambda n, part=part: n + part) for part in (0.123456789, 0.5)
)


def numbers_in(document) -> list[float]:
    if isinstance(document, dict):
        return [n for value in document.values() for n in numbers_in(value)]
    if isinstance(document, list | tuple):
        return [n for value in document for n in numbers_in(value)]
    return [float(document)] if isinstance(document, int | float) and not isinstance(document, bool) else []


def rows_with(numbers, *, internal: bool):
    return st.builds(
        Finding,
        st.sampled_from(["membership", "pairs", "constraints", "statement"]),
        st.just("a measure"),
        *[numbers] * 4,
        st.just("≤ 1"),
        st.sampled_from(list(Verdict)),
        internal=st.just(internal),
        detail=numbers.map(str),
    )


findings = rows_with(SECRET, internal=True) | rows_with(OPEN, internal=False)


@given(st.lists(findings, max_size=8), st.lists(SECRET, min_size=1, max_size=4))
@settings(max_examples=100)
def test_nothing_of_an_internal_row_or_figure_stands_in_the_public_document(rows, line):
    report = Report(
        "a ward",
        "ab" * 32,
        tuple(rows),
        {},
        {},
        figures={Audience.INTERNAL: [{"kind": "survival", "training": line}]},
    )
    public = report.document(Audience.PUBLIC)
    text = json.dumps(public)
    secret = [n for r in rows if r.internal for n in (r.value, r.low, r.high, r.baseline)] + line
    for number in secret:
        assert repr(number) not in text
    assert [r["detail"] for r in public["findings"]] == [r.detail for r in rows if not r.internal]
    open_numbers = {rounded(n) for r in rows if not r.internal for n in (r.value, r.low, r.high, r.baseline)}
    shown = {
        n for row in public["findings"] for n in numbers_in({k: v for k, v in row.items() if k != "attacks"})
    }
    assert shown <= open_numbers
    assert public["figures"] == []
    assert "salt" not in text
    internal = report.document(Audience.INTERNAL)
    assert [r["value"] for r in internal["findings"]] == [r.value for r in rows]


def test_the_public_document_is_the_same_whoever_the_patients_are(ward_columns, make_ward):
    draws = [make_ward(120, 10 + seed) for seed in range(5)]
    source = Source("ab" * 32, "a ward", source_patients=120.0)

    def public(training, holdout):
        evidence = Evidence(ward_columns, training, holdout)
        document = make(ward_columns, draws, source, evidence=evidence, effort=LITTLE).document(
            Audience.PUBLIC
        )
        gate = document.pop("gate")
        assert numbers_in(gate) == []
        return document

    first = public(make_ward(150, 1), make_ward(120, 2))
    odd = make_ward(90, 4, effect=3.0)
    odd["albumin"] = np.full(90, np.nan)
    assert public(make_ward(300, 3), odd) == first
    assert {row["block"] for row in first["findings"]} == {
        "statement",
        "mechanism",
        "constraints",
        "provenance",
    }


def test_with_open_data_the_public_document_has_likeness_and_no_attack(ward_columns, make_ward):
    evidence = Evidence(ward_columns, make_ward(150, 1), make_ward(150, 2), open_data=True)
    draws = [make_ward(150, 10 + seed) for seed in range(5)]
    report = make(ward_columns, draws, Source("ab" * 32, "a ward"), evidence=evidence, effort=LITTLE)
    public, internal = report.document(Audience.PUBLIC), report.document(Audience.INTERNAL)
    blocks = {row["block"] for row in public["findings"]}
    assert {"pairs", "survival", "prediction"} <= blocks
    assert not {"membership", "singling out", "linkability", "inference", "smoke test"} & blocks
    assert {"membership", "smoke test"} <= {row["block"] for row in internal["findings"]}
    assert any(figure.get("training") for figure in public["figures"])
    for row in public["findings"]:
        for name in ("value", "low", "high", "baseline"):
            assert row[name] is None or row[name] == rounded(row[name])


def test_without_patients_a_report_says_of_each_block_that_it_is_not_tested(ward_columns, make_ward):
    draws = [make_ward(60, seed) for seed in range(5)]
    source = Source("ab" * 32, "a ward", "Who dies?", seeds=(1, 2, 3, 4, 5), source_patients=1234.0)
    document = make(ward_columns, draws, source).document(Audience.INTERNAL)
    untested = {row["block"] for row in document["findings"] if row["verdict"] == "not tested"}
    assert untested >= {
        "statement",
        "membership",
        "singling out",
        "linkability",
        "inference",
        "pairs",
        "survival",
        "fairness",
    }
    head = (
        document["question"],
        document["seeds"],
        document["virtual_patients"],
        document["source_patients_about"],
    )
    assert head == ("Who dies?", [1, 2, 3, 4, 5], 60, 1200.0)
    assert document["verdict"] == "fail"  # nobody can say where the model comes from
    assert document["not_for"]
    json.dumps(document, allow_nan=False)


def test_rows_and_figures_of_others_stand_in_the_report_and_each_row_is_heard_once(ward_columns, make_ward):
    rows = [
        Finding("trajectories", name, 0.5, None, None, None, "≤ 1", Verdict.PASS, internal=internal)
        for name, internal in (("transitions", True), ("order of events", False))
    ]
    heard = []
    report = make(
        ward_columns,
        [make_ward(60, seed) for seed in range(5)],
        Source("ab" * 32, "a ward"),
        more=rows,
        figures=[{"kind": "fan", "name": "hba1c"}],
        heard=heard.append,
    )
    assert heard == list(report.findings)
    documents = {audience: report.document(audience) for audience in Audience}
    for document in documents.values():
        assert {"kind": "fan", "name": "hba1c"} in document["figures"]
    measures = {
        a: [r["measure"] for r in d["findings"] if r["block"] == "trajectories"] for a, d in documents.items()
    }
    assert measures == {
        Audience.INTERNAL: ["transitions", "order of events"],
        Audience.PUBLIC: ["order of events"],
    }


@pytest.mark.parametrize("draws", [0, 4])
def test_one_draw_is_chance_so_fewer_than_five_are_refused(draws, ward_columns, make_ward):
    with pytest.raises(GemelError, match="GEM757"):
        make(ward_columns, [make_ward(30, seed) for seed in range(draws)], Source("ab" * 32, "a ward"))


@pytest.mark.parametrize("fault", ["missing", "short", "none"])
def test_people_who_do_not_fit_the_public_columns_are_refused(fault, ward_columns, make_ward):
    people = make_ward(30, 1)
    if fault == "missing":
        del people["albumin"]
    elif fault == "short":
        people["age"] = people["age"][:-1]
    else:
        people = make_ward(0, 1)
    with pytest.raises(GemelError, match="GEM757"):
        Evidence(ward_columns, people, make_ward(30, 2))


def test_sites_that_are_not_as_many_as_the_patients_are_refused(ward_columns, make_ward):
    sites = (np.full(30, "north"), np.full(29, "north"))
    with pytest.raises(GemelError, match="GEM757"):
        Evidence(ward_columns, make_ward(30, 1), make_ward(30, 2), sites)


def test_a_salt_keeps_the_hash_of_a_report_from_telling_its_numbers():
    made = [Report("a ward", "ab" * 32, (), {}, {}) for _ in range(2)]
    hashes = {report.document(Audience.PUBLIC)["gate"]["internal_report_sha256"] for report in made}
    assert len(hashes) == 2
    assert made[0].document(Audience.PUBLIC) == made[0].document(Audience.PUBLIC)


def test_the_verdict_of_a_report_is_its_worst_row_that_decides():
    def row(verdict, gates=True):
        return Finding("pairs", "it", 1.0, None, None, None, "", verdict, internal=False, gates=gates)

    assert worst([row(Verdict.PASS), row(Verdict.FAIL, gates=False)]) is Verdict.PASS
    assert worst([row(Verdict.PASS), row(Verdict.NOT_TESTED)]) is Verdict.NOT_TESTED
    assert worst([row(Verdict.NOT_TESTED), row(Verdict.FAIL)]) is Verdict.FAIL
