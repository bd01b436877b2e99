"""What a check adds to the account of the lines: fixes, displays, the mapping's use, consent, models, drift."""

import json
import re
from datetime import date
from html.parser import HTMLParser

import msgspec
import pytest

from gemel.data_adapters.meaning.site_mapping import load_mapping
from gemel.data_adapters.quality.check import check_export
from gemel.data_adapters.quality.html_report import render_report
from gemel.data_adapters.quality.second_look import find_displays
from gemel.twins.programmes.fatty_liver import PROGRAMME

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7*7 }}'
PERMIT = {"code": "OPTIN"}


def said(fhir, key, concept):
    return fhir.observation(key, "x", 1, "1", "2010") | {"code": concept}


def local(code, display=None, system="http://local"):
    return {"coding": [{"system": system, "code": code} | ({"display": display} if display else {})]}


def test_a_display_is_the_first_that_a_record_says_and_never_a_typed_text(fhir, tmp_path):
    lines = [
        said(fhir, "p", local("A") | {"text": "typed by a person"}),
        said(fhir, "p", local("A", "Alpha")),
        said(fhir, "p", local("A", "Other", system="http://elsewhere")),
        said(fhir, "p", local("Ä/1", "Umlaut")),
    ]
    escaped = json.dumps(lines[3]).replace("/1", "\\/1").encode()
    export = fhir.write(tmp_path / "e", {"x.ndjson": [*lines[:3], escaped]})
    codes = {("http://local", "A"), ("http://elsewhere", "A"), ("http://local", "Ä/1"), ("", "none")}
    assert find_displays(export, codes, withheld=()) == {
        ("http://local", "A"): "Alpha",
        ("http://elsewhere", "A"): "Other",
    }
    export = fhir.write(tmp_path / "f", {"x.ndjson": lines})
    assert find_displays(export, codes, withheld=())["http://local", "Ä/1"] == "Umlaut"
    assert find_displays(export, codes, withheld={"p"}) == {}


def test_a_mapping_that_the_export_never_says_is_named_and_one_that_it_says_is_not(fhir, tmp_path):
    site = tmp_path / "site.toml"
    site.write_text(
        '[codes]\n"http://local|A" = "stroke"\n"http://local|ZZ" = "stroke"\n"C/1" = "stroke"\n'
        '[units]\n"Kilo" = "kg"\n[genders]\n"W" = "female"\n'
    )
    lines = [
        fhir.patient("p"),
        fhir.condition("p", "http://local", "A", "2010"),
        json.dumps(fhir.condition("p", "", "C/1", "2010")).replace("/1", "\\/1").encode(),
    ]
    export = fhir.write(tmp_path / "e", {"x.ndjson": lines})
    used = check_export(export, PROGRAMME, validate="off", mapping=load_mapping(site)).mapping
    assert (used.entries, used.never_seen) == (
        5,
        ["[codes] 'http://local|ZZ'", "[genders] 'W'", "[units] 'Kilo'"],
    )


def test_nothing_of_a_withheld_patient_reaches_the_report(fhir, tmp_path):
    def of(key):
        odd = said(fhir, key, local(f"code-{key}", f"display-{key}"))
        return [
            fhir.patient(key) | {"unheardOf": key},
            odd,
            fhir.observation(key, "39156-5", 3000, "kg/m2", "2010-01-01"),
        ]

    export = fhir.write(tmp_path / "e", {"x.ndjson": [*of("shown"), *of("hidden")]})
    (tmp_path / "out.txt").write_text("hidden\nnobody\n")
    report = check_export(
        export, PROGRAMME, validate="full", opt_out=tmp_path / "out.txt", on=date(2026, 1, 1)
    )
    text = msgspec.json.encode(report).decode()
    assert "hidden" not in text
    assert "display-shown" in text
    assert (report.consent.withheld.patients, report.consent.unmatched, report.patients) == (1, 1, 1)
    assert (report.validation.checked, report.validation.failed) == (3, 1)
    assert report.to_do[0].weight == "must"
    assert "1" in report.to_do[0].what


@pytest.mark.parametrize("workers", [1, 2])
def test_full_validation_gives_the_same_with_any_number_of_workers(fhir, tmp_path, workers):
    good, bad = fhir.patient("p"), fhir.patient("q") | {"unheardOf": 1}
    export = fhir.write(tmp_path / "e", {"a.ndjson": [good, bad], "b.ndjson": [bad | {"id": "r"}, b"{"]})
    found = check_export(export, validate="full", workers=workers).validation
    assert (found.checked, found.failed, found.failed_by_type) == (3, 2, {"Patient": 2})
    assert [(one.file, one.line) for one in found.examples] == [("a.ndjson", 2), ("b.ndjson", 1)]


def test_the_same_faults_stand_together_with_what_to_do(fhir, tmp_path):
    bare = {"value": 30}
    lines = [fhir.patient("p")]
    lines += [fhir.observation("p", "39156-5", 1, None, "2010-01-01", valueQuantity=bare) for _ in range(5)]
    lines += [fhir.observation("p", "none-of-ours", 1, None, "2010-01-01", valueQuantity=bare), b"{"]
    report = check_export(fhir.write(tmp_path / "e", {"x.ndjson": lines}), PROGRAMME, validate="off")
    groups = [(group.code, group.count, group.example) for group in report.reject_groups]
    assert groups == [("GEM202", 5, "x.ndjson:2"), ("GEM202", 1, "x.ndjson:7"), ("GEM201", 1, "x.ndjson:8")]
    assert 'body_mass_index = "..."' in report.reject_groups[0].fix
    assert "none of the programme's" in report.reject_groups[1].fix
    assert all(reject.fix for reject in report.rejects)
    assert "40" not in report.to_do[0].what
    assert report.to_do[0].what.startswith("5 values of body_mass_index were left out: no unit")


def test_codes_that_are_called_like_a_concept_that_nobody_has_are_asked_about(fhir, tmp_path):
    conditions = [
        fhir.condition("p", "x", "x", "2010") | {"code": local(f"{i % 60}", f"Code {i}")} for i in range(120)
    ]
    called = ("Chronic congestive HEART failure (disorder)", "Heart transplant")
    conditions += [
        fhir.condition("p", "x", "x", "2010") | {"code": local(f"h{i}", name)}
        for i, name in enumerate(called)
    ]
    export = fhir.write(tmp_path / "e", {"x.ndjson": [fhir.patient("p"), *conditions]})
    report = check_export(export, PROGRAMME, validate="off")
    [asked] = [item for item in report.to_do if "called alike" in item.what]
    assert "heart_failure" in asked.what
    assert "http://local|h0 (Chronic congestive HEART failure (disorder), 1 times)" in asked.what
    assert "transplant" not in asked.what
    assert '= "heart_failure"' in asked.fix
    assert "heart_failure" not in report.to_do[-1].what
    assert "The next 12" in render_report(report)


def test_values_hidden_in_a_rejected_panel_are_not_lost_in_silence(fhir, tmp_path):
    panel = fhir.pressure_panel("p", 120, 80, "2010-01-01")
    for part in panel["component"]:
        part["valueQuantity"] = {"value": part["valueQuantity"]["value"]}
    panel["component"].reverse()
    export = fhir.write(tmp_path / "e", {"x.ndjson": [fhir.patient("p"), panel]})
    report = check_export(export, PROGRAMME, validate="off")
    assert "values of systolic_blood_pressure" in " ".join(item.what for item in report.to_do)


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def hostile_page(fhir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    name = "<svg onload=alert(1)>.ndjson"
    lines = [
        fhir.patient("p", gender="female"),
        fhir.encounter("p", "2010-01-01", "2012-01-01"),
        fhir.observation("p", "39156-5", 30, "kg/m2", "2010-01-01"),
        fhir.observation("p", "39156-5", 30, HOSTILE, "2010-01-01"),
        said(fhir, "p", local(HOSTILE, HOSTILE, system=HOSTILE)),
        b'{"resourceType": "' + b"<b>x</b>" + b'", "id": "1"}',
        fhir.patient("q") | {HOSTILE: 1},
    ]
    export = fhir.write(folder / "<script>x<", {name.replace("/", ""): lines})
    (export / "<i>notes.txt").write_text("x")
    site = folder / "site.toml"
    site.write_text('title = "<u>t</u>"\n[units]\n"<blink>" = "kg"\n')
    report = check_export(export, PROGRAMME, validate="full", mapping=load_mapping(site))
    return report, render_report(report)


def test_hostile_texts_of_an_export_never_become_markup(hostile_page):
    _, page = hostile_page
    tags = Tags(page)
    allowed = [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "p",
        "h1",
        "h2",
        "h3",
        "nav",
        "a",
        "dl",
        "div",
        "dt",
        "dd",
        "small",
        "main",
        "section",
        "ul",
        "li",
        "strong",
        "span",
        "table",
        "caption",
        "thead",
        "tr",
        "th",
        "tbody",
        "td",
        "code",
        "br",
        "abbr",
        "details",
        "summary",
        "figure",
        "figcaption",
        "svg",
        "rect",
        "line",
        "text",
        "footer",
        "i",
    ]
    assert {tag for tag, _ in tags.found} <= set(allowed)
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7*7 }}" in page
    assert "<blink>" not in page
    assert page.count("<i ") == 4  # the key's colours


def test_the_page_asks_for_nothing_and_runs_nothing(hostile_page):
    _, page = hostile_page
    tags = Tags(page)
    [policy] = [a["content"] for tag, a in tags.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    links = [value for _, a in tags.found for name, value in a.items() if name in ("href", "src", "action")]
    assert all(value.startswith("#") for value in links)
    assert "url(" not in page
    assert "@import" not in page
    targets = {a["id"] for _, a in tags.found if "id" in a}
    assert {value[1:] for value in links} <= targets


def test_every_table_has_a_caption_and_every_picture_a_text(hostile_page):
    report, page = hostile_page
    tags = Tags(page)
    assert page.count("<table>") == page.count("<caption>") > 5
    pictures = [a for tag, a in tags.found if tag == "svg"]
    assert pictures
    assert all(a.get("aria-label") and a["role"] == "img" for a in pictures)
    assert all(a.get("scope") for tag, a in tags.found if tag == "th")
    assert page.count(report.notice) == 2


def test_the_page_shows_the_numbers_of_the_report(hostile_page):
    report, page = hostile_page
    text = re.sub(r"<[^>]+>", " ", page)
    for number in (report.read, report.accepted, report.rejected_total, report.patients):
        assert f" {number} " in " ".join(text.split())
    assert report.validation.failed == 1
    for item in report.to_do:
        assert msgspec.json.encode(item)  # plain values


def test_an_export_of_nothing_useful_still_gives_a_page(fhir, tmp_path):
    export = fhir.write(tmp_path / "e", {"x.ndjson": [b"{", {"resourceType": "Organization", "id": "o"}]})
    for programme in (None, PROGRAMME):
        page = render_report(check_export(export, programme))
        assert "Something must be decided or mended" in page


def test_drift_and_questions_about_units_stand_in_the_report(fhir, tmp_path):
    lines = []
    for i in range(30):
        lines.append(fhir.patient(f"p{i}"))
        lines.append(fhir.encounter(f"p{i}", "2010-01-01", "2012-01-01"))
        lines.append(fhir.observation(f"p{i}", "2085-9", 1.3, "mg/dL", "2011-01-01"))
        lines.append(fhir.observation(f"p{i}", "39156-5", 45.0, "kg/m2", "2011-01-01"))
    report = check_export(fhir.write(tmp_path / "e", {"x.ndjson": lines}), PROGRAMME, validate="off")
    verdicts = {one.concept: one.verdict for one in report.drift}
    assert verdicts["body_mass_index"] == "differs strongly"
    [asked] = report.unit_questions
    assert (asked.concept, asked.other_unit) == ("hdl_cholesterol", "mmol/L")
    page = render_report(report)
    assert "Cohen" in page
    assert "Are values in mmol/L recorded with the unit mg/dL?" in page


@pytest.mark.parametrize("site", ["site_a_smart_r4_2019", "site_b_bulkserver_r4"])
def test_the_two_public_sites_get_a_report(shared_data, site):
    export = shared_data / "fhir" / site
    if not export.exists():
        pytest.skip("the public FHIR sites are not in ../shared/data")
    report = check_export(export, PROGRAMME, validate="off", workers=2)
    assert all(file.read == file.accepted + file.rejected for file in report.files)
    assert sum(year.visits for year in report.years) == report.people.visits
    for one in report.distributions:
        assert sum(one.histogram.counts) == one.values
    assert all(code.display for code in report.unmapped[:20])
    assert render_report(report) == render_report(check_export(export, PROGRAMME, validate="off"))
