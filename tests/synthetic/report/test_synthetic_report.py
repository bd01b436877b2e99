import html
import json
import re
from html.parser import HTMLParser

import pytest

from gemel.synthetic.cohort import sample
from gemel.synthetic.provenance import posterior_from_even_odds
from gemel.synthetic.report.comparison import NOTE, compare
from gemel.synthetic.report.page import report_document, write_report
from gemel.synthetic.report.verdicts import verdicts


@pytest.fixture(scope="module")
def comparison(cohort, real):
    return compare(cohort, *real.split())


@pytest.fixture(scope="module")
def written(cohort, comparison, tmp_path_factory):
    return write_report(cohort, tmp_path_factory.mktemp("report"), comparison=comparison)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "line", "path", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in {"meta", "line", "path", "rect"}:
            assert self.open.pop() == tag


def test_the_page_refers_to_nothing_outside_itself_and_runs_nothing(written):
    text = written[0].read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(reader.tags)
    assert not [a for a, _ in reader.attributes if a in {"src", "href", "srcset"} or a.startswith("on")]
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", text)
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_says_the_price_in_numbers_and_in_words(written):
    text = written[0].read_text(encoding="utf-8")
    for part in (
        "SYNTHETIC",
        "HTEST",
        "ε = 3",
        "95 %",
        "1 in 100,000",
        "add or remove one patient",
    ):
        assert part in text
    assert posterior_from_even_odds(1.0) == pytest.approx(0.731, abs=5e-4)


def test_the_exact_comparison_is_marked_as_one_with_open_data(written):
    text = written[0].read_text(encoding="utf-8").lower()
    assert NOTE in text


def test_page_and_json_hold_the_same_verdicts(written, cohort, comparison):
    document = json.loads(written[1].read_text(encoding="utf-8"))
    text = html.unescape(written[0].read_text(encoding="utf-8"))
    assert document["rows"] == json.loads(json.dumps(report_document(cohort, comparison)["rows"]))
    assert all(row["measure"] in text for row in document["rows"])
    assert sum(document["counts"].values()) == len(document["rows"])
    assert text.count("<svg viewBox") == 3


def test_the_report_tells_no_exact_number_of_patients(written, real):
    train, holdout = real.split()
    for path in written:
        numbers = set(re.findall(r"[\d,]+", path.read_text(encoding="utf-8")))
        for dataset in (real, train, holdout):
            assert not {str(len(dataset)), f"{len(dataset):,}"} & numbers


def test_thresholds_decide(cohort, comparison):
    rows = {row.measure: row for row in verdicts(cohort, comparison)}
    for row in rows.values():
        if row.value is not None and row.threshold.startswith("≤"):
            assert row.verdict == ("pass" if row.value <= float(row.threshold[2:]) else "fail"), row
    assert rows["canary lower bound of ε"].verdict == "not tested"


def test_a_copy_of_patients_fails_the_smoke_test(cohort, real):
    import dataclasses

    train, holdout = real.split()
    some = train.take(slice(400))
    copy = dataclasses.replace(cohort, values=some.values, time_years=some.time_years, event=some.event)
    failed = {r.measure for r in verdicts(copy, compare(copy, train, holdout)) if r.verdict == "fail"}
    assert "exact copies of a patient used" in failed
    assert "virtual patients nearer to a patient used than to one held out" in failed


def test_without_a_comparison_likeness_is_not_tested(cohort, tmp_path):
    page, data = write_report(cohort, tmp_path)
    document = json.loads(data.read_text(encoding="utf-8"))
    blocks = {
        row["block"]: row["verdict"] for row in document["rows"] if row["block"] in {"Likeness", "Survival"}
    }
    assert set(blocks.values()) == {"not tested"}
    assert "no data to compare with" in page.read_text(encoding="utf-8")


def test_test_noise_is_shouted_and_fails(model, provenance, tmp_path):
    provenance["twin"] = provenance["twin"] | {"noise": "test"}
    cohort = sample(model, patients=20, seed=1, provenance=provenance)
    page, _ = write_report(cohort, tmp_path)
    assert "no privacy guarantee" in page.read_text(encoding="utf-8")
    assert any(row.verdict == "fail" for row in verdicts(cohort, None) if row.block == "Privacy")


def test_a_high_price_fails(model, provenance):
    provenance["whole"] = provenance["whole"] | {"epsilon": 3.5}
    cohort = sample(model, patients=20, seed=1, provenance=provenance)
    assert verdicts(cohort, None)[0].verdict == "fail"


def test_text_from_the_study_cannot_become_markup(model, provenance, tmp_path):
    cohort = sample(model, patients=20, seed=1, provenance=provenance | {"study": "<script>x</script>"})
    assert "<script>" not in write_report(cohort, tmp_path)[0].read_text(encoding="utf-8")
