"""The demo's report says what the summary says, opens offline, and escapes what it is told."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.cli.demo import charts
from gemel.cli.demo.report import findings, headline, write_report
from gemel.cli.demo.summary import Site, read_summary

SITES = ("north", "lake", "valley")
YEARS = [float(year) for year in range(16)]
SECTIONS = (
    "walk",
    "rounds",
    "privacy",
    "quality",
    "what-if",
    "assimilation",
    "virtual-cohort",
    "certificate",
)


def _scores(death: float, cardiovascular: float, diabetes: float) -> dict[str, Any]:
    named = {"death": death, "cardiovascular": cardiovascular, "diabetes": diabetes}
    return {
        name: {"auc_5y": auc + 0.008, "auc_10y": auc, "integrated_brier": 0.0612}
        for name, auc in named.items()
    }


def _endpoints() -> dict[str, Any]:
    titles = {"death": "Death", "cardiovascular": "Cardiovascular disease", "diabetes": "Diabetes"}
    figures = {"auc_5y": "AUC 5 years", "auc_10y": "AUC 10 years", "integrated_brier": "IBS"}
    return {
        name: {
            "title": title,
            "phrase": f"{title[:1].lower()}{title[1:]} within 10 years",
            "main": "auc_10y",
            "figures": figures,
        }
        for name, title in titles.items()
    }


def _rounds() -> list[dict[str, Any]]:
    every = [
        {"round": r, "sites": list(SITES), "missing": [], "seconds": 4.0 + r % 3, "bytes": 13_320}
        for r in range(1, 9)
    ]
    every[3] |= {
        "sites": ["north", "lake"],
        "missing": [{"site": "valley", "code": "GEM502"}],
        "seconds": 15.2,
    }
    return every


def _what_if() -> dict[str, Any]:
    def curves(factor: float) -> dict[str, list[float]]:
        rates = {"death": 0.011, "cardiovascular": 0.019, "diabetes": 0.024}
        return {name: [1 - (1 - rate * factor) ** year for year in YEARS] for name, rate in rates.items()}

    patient = [
        {"title": "Age", "value": 58.0, "unit": "a", "flag": False},
        {"title": "Male sex", "value": 1.0, "unit": "1", "flag": True},
        {"title": "Hypertension", "value": 0.0, "unit": "1", "flag": True},
        {"title": "HDL cholesterol", "value": None, "unit": "mg/dL", "flag": False},
    ]
    return {
        "title": "A man of 58",
        "patient": patient,
        "plan": "lighter",
        "other": "as recorded",
        "described": ["weight loss 10 %", "as recorded"],
        "claim": "From the literature.",
        "assumptions": ["Consistency."],
        "unchecked": ["overlap"],
        "times": YEARS,
        "titles": {"death": "Death", "cardiovascular": "Heart", "diabetes": "Diabetes"},
        "with_plan": curves(0.86),
        "with_other": curves(1.0),
        "low": {"other": curves(0.9), "plan": curves(0.77)},
        "high": {"other": curves(1.1), "plan": curves(0.95)},
        "range_note": "the range over the twins of the last rounds",
        "courses": [{"name": "weight", "unit": "kg", "with_plan": [90.0] * 16, "with_other": [100.0] * 16}],
        "targets": [{"title": "HbA1c, day 182", "with_plan": "6.1 ± 0.3 %", "with_other": "6.6 ± 0.3 %"}],
    }


def _assimilation() -> dict[str, Any]:
    steps = [
        {
            "observations": 0,
            "taken": "",
            "parameters": ["–"],
            "expected": "8.1 ± 0.9, observed 7.4",
            "later": ["7.9 ± 1"],
        },
        {
            "observations": 1,
            "taken": "day 90: hba1c 7.4",
            "parameters": ["0.31 ± 0.1"],
            "expected": "",
            "later": ["7.2 ± 0.5"],
        },
    ]
    return {
        "title": "A man of 58",
        "parameters": ["gain"],
        "later": ["hba1c, %"],
        "at": "5 years",
        "steps": steps,
    }


def example_summary() -> dict[str, Any]:
    """A complete summary with made-up numbers."""
    titles = ("North University Hospital", "Lake District Hospital", "Valley Clinic")
    people, spent = (10_529, 5_265, 1_755), (2.9987, 2.9987, 2.61)
    left = [
        {"what": "8 training updates", "bytes": 35_520},
        {"what": "Metric tables", "bytes": 9_216},
        {"what": "Marginal tables", "bytes": 20_480},
    ]
    scored = {"death": {"auc_10y": {"value": 0.861, "standard_error": 0.012}}}
    site_scores = {
        "held_out_patients": 350,
        "federated_dp": _scores(0.86, 0.79, 0.74),
        "local": _scores(0.8, 0.7, 0.65),
        "local_on_all": _scores(0.81, 0.72, 0.66),
    }
    return {
        "title": "Gemel demo",
        "source": {"title": "Olmsted County", "simulated": False, "licence": "LGPL"},
        "endpoints": _endpoints(),
        "study": {
            "title": "Cardiometabolic course in fatty liver",
            "sha256": "5f" * 32,
            "programme": "fatty_liver 1",
        },
        "rounds": 8,
        "seconds": 221.4,
        "delta": 1e-5,
        "sites": [
            {
                "name": name,
                "title": title,
                "patients": n,
                "epsilon_spent": e,
                "epsilon_cap": 3.0,
                "left": left,
            }
            for name, title, n, e in zip(SITES, titles, people, spent, strict=True)
        ],
        "rounds_detail": _rounds(),
        "metrics": {
            "federated_dp": _scores(0.8604, 0.7912, 0.742),
            "pooled": _scores(0.8671, 0.7989, 0.748),
            "local": _scores(0.8312, 0.7504, 0.69),
            "age_and_sex": _scores(0.858, 0.7702, 0.61),
            "baselines": [
                {
                    "title": "A published score",
                    "endpoint": "death",
                    "figure": "auc_10y",
                    "patients": 412,
                    "score": 0.7733,
                    "twin": 0.8612,
                }
            ],
            "released": scored,
            "per_site": {name: copy.deepcopy(site_scores) for name in SITES},
        },
        "what_if": _what_if(),
        "assimilation": _assimilation(),
        "synthetic": {
            "patients": 1000,
            "files": ["virtual/Patient.ndjson", "virtual/cohort.parquet", "virtual/cohort.csv"],
            "survival": {
                "years": YEARS,
                "real": [1 - 0.0090 * y for y in YEARS],
                "virtual": [1 - 0.0097 * y for y in YEARS],
            },
            "marginal_distance": {"age_years": 0.031, "body_mass_index_kg_m2": 0.044},
            "model": "cohorts.safetensors",
            "report": "virtual/report.html",
            "internal_report": "virtual/internal/report.html",
            "gate": {
                "outcome": "released by a named person",
                "passed": 78,
                "failed": ["survival: death <curve>", "pairs: two columns"],
                "untested": ["mechanism: canaries"],
                "by": "gemel demo",
                "reason": "to be looked at",
            },
        },
        "ledgers": [
            {
                "site": name,
                "file": f"nodes/{name}/ledger.json",
                "entries": [
                    {"task": "count", "epsilon_after": 0.21},
                    {"task": "train/1", "epsilon_after": 0.9},
                ],
            }
            for name in SITES
        ],
        "certificate": {"file": "certificate.json", "sha256": "ab" * 32},
    }


class _Page(HTMLParser):
    """What a browser would make of the page: tags in order, ids, loads, and the text that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}:
                self.loads.append(value or "")
            assert not name.startswith("on")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _render(summary: dict[str, Any], folder: Path) -> tuple[str, _Page]:
    path = folder / "report.html"
    write_report(json.loads(json.dumps(summary)), path)
    html = path.read_text("utf-8")
    page = _Page()
    page.feed(html)
    assert not page.open, "every element is closed"
    return html, page


def test_the_report_has_every_section_and_is_small(tmp_path: Path) -> None:
    html, page = _render(example_summary(), tmp_path)
    assert set(SECTIONS) <= page.ids
    assert len(html.encode()) < 200_000
    assert "Three hospitals together trained one patient twin" in page.text
    for expected in (
        "0.860",
        "0.867",
        "0.858",
        "0.791",
        "± 0.012",
        "2.998700",
        "17,549",
        "GEM502",
        "0.773",
        "412",
    ):
        assert expected in page.text
    for name in ("North University Hospital", "Lake District Hospital", "Valley Clinic"):
        assert page.text.count(name) >= 5
    assert "gemel verify certificate.json" in page.text
    assert "not treatment advice" in page.text


def test_the_report_asks_nobody_for_anything_and_runs_nothing(tmp_path: Path) -> None:
    html, page = _render(example_summary(), tmp_path)
    assert not page.loads
    assert not {"script", "link", "iframe", "img", "object", "embed", "form"} & set(page.tags)
    assert not re.search(r"(?i)https?://|url\(|@import|javascript:", html)
    assert all(link.startswith("./") for link in page.links)
    assert "default-src 'none'" in html


def test_what_the_summary_says_is_shown_as_text_never_as_markup(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><b onload=x'
    html, page = _render(_with_every_text(example_summary(), evil), tmp_path)
    assert "script" not in page.tags
    assert "<script" not in html
    assert evil in page.text
    assert all(link.startswith("./") for link in page.links)


def _with_every_text(summary: Any, text: str) -> Any:
    if isinstance(summary, dict):
        return {
            key if key in _KEPT else f"{key}{text}": _with_every_text(v, text) for key, v in summary.items()
        }
    if isinstance(summary, list):
        return [_with_every_text(value, text) for value in summary]
    return text if isinstance(summary, str) else summary


def _known_keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in _known_keys(inner)}
    return {key for inner in value for key in _known_keys(inner)} if isinstance(value, list) else set()


_KEPT = _known_keys(example_summary()) - {*SITES, "body_mass_index_kg_m2"}


def test_links_stay_beside_the_report_and_show_no_machine_path(tmp_path: Path) -> None:
    summary = example_summary()
    summary["synthetic"]["files"] = [
        str(tmp_path / "virtual" / "a b.csv"),
        "javascript:alert(1)",
        "/elsewhere/secret/x.csv",
    ]
    _html, page = _render(summary, tmp_path)
    assert {"./virtual/a%20b.csv", "./javascript%3Aalert%281%29", "./x.csv"} <= set(page.links)
    assert str(tmp_path) not in page.text
    assert "secret" not in page.text


def test_the_least_summary_of_the_issue_still_gives_a_report(tmp_path: Path) -> None:
    summary = example_summary()
    least = {
        key: summary[key]
        for key in (
            "study",
            "delta",
            "rounds",
            "seconds",
            "metrics",
            "synthetic",
            "sites",
            "source",
            "endpoints",
        )
    }
    least["sites"] = [
        {k: v for k, v in site.items() if k not in {"title", "left"}} for site in least["sites"]
    ]
    least["metrics"] = {
        key: least["metrics"][key] for key in ("federated_dp", "pooled", "local", "age_and_sex")
    }
    least["synthetic"] = {"patients": 1000, "files": []}
    least["certificate"] = "certificate.json"
    _html, page = _render(least, tmp_path)
    assert set(SECTIONS) - {"what-if", "assimilation"} <= page.ids
    assert not {"what-if", "assimilation"} & page.ids


def test_a_metric_that_could_not_be_computed_is_called_not_known(tmp_path: Path) -> None:
    summary = example_summary()
    for model in ("federated_dp", "pooled", "local", "age_and_sex"):
        summary["metrics"][model]["death"] = {"auc_5y": None, "auc_10y": None, "integrated_brier": None}
    _html, page = _render(summary, tmp_path)
    assert page.text.count("not known") >= 12
    assert headline(read_summary(summary)).endswith("without moving a patient record.")


def test_a_malformed_summary_is_refused_with_its_field(tmp_path: Path) -> None:
    summary = example_summary()
    summary["sites"][1]["epsilon_spent"] = "plenty"
    with pytest.raises(msgspec.ValidationError, match=r"sites\[1\]\.epsilon_spent"):
        write_report(summary, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (0.87, " as well as if"),
        (0.8671, " as well as if"),
        (0.848, "almost as well"),
        (0.84, "less well than"),
    ],
)
def test_the_headline_never_says_more_than_the_numbers(ours: float, words: str) -> None:
    summary = example_summary()
    summary["metrics"]["federated_dp"]["death"]["auc_10y"] = ours
    assert words in headline(read_summary(summary))
    assert ("almost" in headline(read_summary(summary))) == (words == "almost as well")


def test_the_findings_name_each_comparison_with_its_sign() -> None:
    assert findings(read_summary(example_summary()))[0] == (
        "Death within 10 years: AUC 0.860: 0.007 worse than pooled records without privacy (0.867); 0.029 better than the "
        "hospitals alone, on average (0.831); 0.002 better than age and sex alone (0.858)."
    )


def _measured(summary: dict[str, Any], *, ours: float, pooled: float) -> dict[str, Any]:
    """The same summary with an error, lower is better, as its first endpoint."""
    line = {
        "title": "HbA1c after 6 months",
        "phrase": "HbA1c after 6 months",
        "main": "rmse",
        "figures": {"rmse": "RMSE, %"},
        "higher_is_better": False,
    }
    summary["endpoints"] = {"hba1c": line, **summary["endpoints"]}
    for model, value in (("federated_dp", ours), ("pooled", pooled), ("local", 0.8), ("age_and_sex", 1.3)):
        summary["metrics"][model]["hba1c"] = {"rmse": value}
    return summary


@pytest.mark.parametrize(
    ("ours", "words"), [(0.6, " as well as if"), (0.611, "almost as well"), (0.62, "less well than")]
)
def test_an_error_is_better_when_it_is_smaller(ours: float, words: str, tmp_path: Path) -> None:
    summary = _measured(example_summary(), ours=ours, pooled=0.6)
    assert words in headline(read_summary(summary))
    assert "foresees HbA1c after 6 months" in headline(read_summary(summary))
    assert "better than the hospitals alone" in findings(read_summary(summary))[0]
    _html, page = _render(summary, tmp_path)
    assert "RMSE, %" in page.text


def test_simulated_people_are_named_as_such_at_the_top_and_at_the_end(tmp_path: Path) -> None:
    summary = example_summary()
    summary["source"] = {"title": "Invented people", "simulated": True, "licence": ""}
    _html, page = _render(summary, tmp_path)
    assert page.text.index("These people are made up: Invented people.") < page.text.index("What happened")
    assert page.text.count("made up") >= 3
    assert "real and anonymous" not in page.text
    _html, page = _render(example_summary(), tmp_path)
    assert "made up" not in page.text
    assert "real and anonymous: Olmsted County (LGPL)" in page.text


def test_a_refused_comparison_shows_its_reasons_and_no_curve(tmp_path: Path) -> None:
    summary = example_summary()
    kept = ("title", "patient", "plan", "other", "claim")
    summary["what_if"] = {key: summary["what_if"][key] for key in kept} | {
        "reasons": ["GEM622 nobody like that"]
    }
    html, page = _render(summary, tmp_path)
    section = html.partition('id="what-if"')[2].partition("</section>")[0]
    assert "GEM622 nobody like that" in section
    assert "<svg" not in section
    assert "The twin does not say" in page.text


def test_each_outcome_has_its_picture_and_a_short_horizon_is_in_days(tmp_path: Path) -> None:
    summary = example_summary()
    asked = summary["what_if"]
    asked["times"], asked["time_unit"] = [0.0, 90.0, 182.0], "days"
    for side in ("with_plan", "with_other"):
        asked[side] = {name: curve[:3] for name, curve in asked[side].items()}
    for side in ("low", "high"):
        asked[side] = {plan: {n: c[:3] for n, c in curves.items()} for plan, curves in asked[side].items()}
    asked["courses"] = []
    html, page = _render(summary, tmp_path)
    section = html.partition('id="what-if"')[2].partition("</section>")[0]
    assert section.count("<polyline") == 6
    assert section.count("<polygon") == 6
    assert "over days since the index date" in page.text
    assert ">180<" in section


def test_what_each_observation_changed_is_a_row(tmp_path: Path) -> None:
    _html, page = _render(example_summary(), tmp_path)
    assert "day 90: hba1c 7.4" in page.text
    assert "8.1 ± 0.9, observed 7.4" in page.text


@given(st.lists(st.floats(0, 12), min_size=1, max_size=6))
def test_a_budget_bar_is_as_long_as_its_share_of_the_cap(spent: list[float]) -> None:
    sites = [Site(f"s{i}", 100, value, 10.0) for i, value in enumerate(spent)]
    widths = [float(w) for w in re.findall(r'width="([\d.]+)"', charts.budgets(sites))]
    caps, bars = widths[0::2], widths[1::2]
    assert len(set(caps)) == 1
    for value, bar in zip(spent, bars, strict=True):
        assert bar == pytest.approx(min(value / 10.0, 1.05) * caps[0], abs=0.1)


def test_a_hospital_that_missed_a_round_is_a_cross_with_its_code_not_a_disc() -> None:
    run = read_summary(example_summary())
    drawn = charts.rounds(run.sites, run.rounds_detail)
    assert drawn.count("<circle") == 8 * 3 - 1
    assert drawn.count("<path") == 1
    assert "GEM502" in drawn


def test_a_cohort_that_the_gate_refused_says_so_and_names_who_released_it(tmp_path: Path) -> None:
    html, page = _render(example_summary(), tmp_path)
    assert "The release gate refused this cohort" in html
    assert "gemel demo released it all the same: to be looked at" in page.text
    assert "78 passed, 2 failed and 1 were not tested" in page.text
    assert "death &lt;curve&gt;" in html
    summary = example_summary()
    summary["synthetic"]["gate"] |= {"failed": [], "untested": [], "by": "", "reason": ""}
    html, page = _render(summary, tmp_path)
    assert "refused" not in html
    assert "all 78 rows that decide passed" in page.text
