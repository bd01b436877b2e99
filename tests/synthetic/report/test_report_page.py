"""The report as a page: what is drawn is what was found, for eyes, screen readers and paper; nothing is asked of a network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from scipy.stats import spearmanr

from gemel.synthetic.report import Evidence
from gemel.synthetic.report.charts import chart, summary
from gemel.synthetic.report.figures import figures_of
from gemel.synthetic.report.page import BLOCKS, render


class Page(HTMLParser):
    """A page's text, its ids, and whether every element is closed."""

    EMPTY = frozenset({"meta", "br", "line", "rect", "path", "polyline", "polygon", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.targets: set[str] = set()
        self.words: list[str] = []
        self.labels: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.ids |= {str(told["id"])} if "id" in told else set()
        if tag == "a":
            self.targets.add(str(told["href"]))
        if told.get("role") == "img":
            self.labels.append(str(told["aria-label"]))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def row(block: str, verdict: str, **changes: Any) -> dict[str, Any]:
    return {
        "block": block,
        "measure": f"{block} <measured>",
        "value": 0.1234,
        "low": 0.1,
        "high": 0.2,
        "baseline": None,
        "threshold": "≤ 0.1",
        "verdict": verdict,
        "internal": False,
        "control": False,
        "attacks": 0,
        "detail": "",
        "gates": True,
    } | changes


def document(rows: list[dict[str, Any]], figures: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "format": "a test's",
        "audience": "internal",
        "title": "Hearts & livers",
        "question": "How likely is death?",
        "verdict": "fail",
        "model_sha256": "ab" * 32,
        "seeds": [0, 1, 2, 3, 4],
        "virtual_patients": 1000,
        "source_patients_about": 2300.0,
        "statement": {},
        "findings": rows,
        "counts": {},
        "figures": figures,
        "provenance": {"study_sha256": "cd" * 32, "software": {"gemel": "1"}},
        "not_for": ["training a twin"],
        "salt": "00",
    } | changes


@pytest.fixture(scope="module")
def figures(ward_columns, make_ward) -> list[dict[str, Any]]:
    evidence = Evidence(ward_columns, make_ward(1500, 1), make_ward(600, 2))
    return figures_of(ward_columns, [make_ward(1200, seed) for seed in range(3, 8)], evidence)


def test_survival_is_that_of_lifelines_and_the_band_holds_every_draw(
    figures, ward_columns, make_ward
) -> None:
    figure = next(figure for figure in figures if figure["name"] == "relapse")
    days, event = make_ward(1500, 1)["relapse"]
    at_risk = event >= 0
    fitted = KaplanMeierFitter().fit(days[at_risk], event[at_risk] == 1)
    expected = fitted.survival_function_at_times(figure["days"]).to_numpy()
    assert np.allclose(figure["training"], expected, atol=1e-12)
    for seed in range(3, 8):
        days, event = make_ward(1200, seed)["relapse"]
        at_risk = event >= 0
        drawn = KaplanMeierFitter().fit(days[at_risk], event[at_risk] == 1)
        curve = drawn.survival_function_at_times(figure["days"]).to_numpy()
        assert (curve >= np.array(figure["virtual"]["low"]) - 1e-12).all()
        assert (curve <= np.array(figure["virtual"]["high"]) + 1e-12).all()


def test_shares_of_levels_sum_to_one_and_correlations_are_spearmans(figures, ward_columns, make_ward) -> None:
    for figure in figures:
        if figure["kind"] == "marginal":
            assert sum(figure["training"]) == pytest.approx(1)
            assert len(figure["training"]) == len(figure["levels"]) == len(figure["virtual"]["middle"])
    (found,) = (figure for figure in figures if figure["kind"] == "correlations")
    codes = ward_columns.encode_columns(make_ward(1500, 1))
    places = {name: place for place, name in enumerate(found["names"])}
    pair = sorted((places["age"], places["albumin"]))
    expected = spearmanr(codes["age"], codes["albumin"]).statistic
    assert found["training"][found["pairs"].index(pair)] == pytest.approx(expected, abs=1e-9)


def test_without_patients_nothing_of_them_is_in_a_figure(ward_columns, make_ward) -> None:
    found = figures_of(ward_columns, [make_ward(300, seed) for seed in range(5)], None)
    assert all(figure["training"] is None and figure["holdout"] is None for figure in found)
    drawn = [chart(figure) for figure in found]
    assert any(drawn)
    assert not any("training" in picture or "holdout" in picture for picture in drawn)


def test_every_picture_says_in_words_what_it_shows(figures) -> None:
    page = Page(render(document([row("pairs", "pass")], figures)))
    drawn = [figure for figure in figures if chart(figure)]
    assert len(page.labels) == len(drawn)
    for figure in drawn:
        assert f"{figure['title']}. {summary(figure)}" in page.labels
    death = next(figure for figure in figures if figure["name"] == "death")
    assert f"{death['training'][-1]:.1%}" in summary(death)


def test_the_verdict_stands_first_and_counts_each_block() -> None:
    rows = [
        row("membership", "pass"),
        row("membership", "fail"),
        row("pairs", "not tested", value=None, low=None, high=None),
        row("smoke test", "for information", gates=False),
        row("something new", "pass"),
    ]
    html = render(document(rows, []))
    page = Page(html)
    assert html.index("Not passed") < html.index("<h2>What it promises") < html.index("<h2>What was tested")
    score = html[html.index('class="score"') : html.index("</table>")]
    assert re.findall(r'href="#([a-z-]+)"', score) == ["membership", "pairs", "something-new"]
    assert "✗ 1" in score
    assert "○ 1" in score
    assert page.targets <= {f"#{name}" for name in page.ids}, "every link leads to a block of this page"
    assert "membership <measured>" in page.text
    assert "<measured>" not in html
    assert "INTERNAL" in page.text


def test_what_only_the_officer_sees_is_counted_on_the_public_page_and_not_shown() -> None:
    gate = {
        "passed": False,
        "failed": ["membership: AUC", "pairs: pairs <measured>"],
        "untested": ["inference: of death"],
        "internal_report_sha256": "ef" * 32,
    }
    told = document(
        [row("pairs", "fail", measure="pairs <measured>")],
        [],
        audience="public",
        verdict="pass",
        gate=gate,
        withheld="Exact numbers stay inside.",
    )
    del told["salt"]
    page = Page(render(told))
    assert "Not passed" in page.text, "the gate speaks of the internal report, whatever the public rows say"
    assert f"{BLOCKS['membership'][0]}: by the internal report" in page.text
    assert page.text.count("by the internal report") == 2
    assert "ef" * 32 in page.text
    assert "Exact numbers stay inside." in page.text
    told["gate"] = gate | {"passed": True, "failed": [], "untested": []}
    assert "✓ Passed" in Page(render(told)).text


def test_a_page_asks_no_network_and_runs_no_script(figures) -> None:
    html = render(document([row("pairs", "pass")], figures, title='<script>alert("x")</script>'))
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert not re.search(r"""(src|href)=["'](?!#)""", html)
    assert "url(" not in html
    for way in ("prefers-color-scheme: dark", "@media print"):
        assert way in html
