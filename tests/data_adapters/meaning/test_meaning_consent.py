import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.consent import Consent as ConsentR5
from fhir.resources.R4B.consent import Consent
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.consent import NOBODY, Withheld, withheld_patients
from gemel.data_adapters.meaning.consent_rules import MII_POLICIES
from gemel.data_adapters.meaning.opt_out import read_opt_out
from gemel.data_adapters.meaning.site_mapping import SiteMapping

TODAY = date(2026, 11, 22)
OPT_IN = SiteMapping(require_consent=True)
DENY = {"type": "deny"}
PERMIT = {"type": "permit"}
Json = dict[str, Any]


def coded(code: str, system: str = "http://example.org") -> list[Json]:
    return [{"coding": [{"system": system, "code": code}]}]


def purpose(code: str) -> list[Json]:
    return [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": code}]


def consent(patient: str | Json | None = "p1", provision: Json | None = None, **more: Any) -> Json:
    named = {"reference": f"Patient/{patient}"} if isinstance(patient, str) else patient
    resource: Json = {
        "resourceType": "Consent",
        "id": f"c-{patient if isinstance(patient, str) else 'x'}",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "research"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "57016-8"}]}],
        "dateTime": "2025-01-01",
        "policyRule": {"text": "the hospital's broad consent"},
    }
    if named is not None:
        resource["patient"] = named
    if provision is not None:
        resource["provision"] = provision
    return resource | more


def patient(key: str, *identifiers: tuple[str, str]) -> Json:
    entries = [{"system": system, "value": value} for system, value in identifiers]
    return {"resourceType": "Patient", "id": key, **({"identifier": entries} if entries else {})}


def export(folder: Path, *lines: Json | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    content = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / "all.ndjson").write_bytes(b"\n".join([*content, b""]))
    return folder


def decide(
    folder: Path, *consents: Json | bytes, mapping: SiteMapping = OPT_IN, on: date = TODAY
) -> Withheld:
    return withheld_patients(export(folder / "e", *consents), on=on, mapping=mapping)


def mii(number: int, kind: str = "permit") -> Json:
    return {"type": kind, "code": coded(f"{MII_POLICIES.removeprefix('urn:oid:')}.{number}", MII_POLICIES)}


# What one provision tree says: "in" in both models, "out" in both, "silent": in without, out with `require`.
TREES: list[tuple[str, Json | None, str]] = [
    ("a permission", PERMIT, "in"),
    ("a denial", DENY, "out"),
    ("no rule at all", None, "out"),
    ("a base rule of no type", {"purpose": purpose("HRESCH")}, "out"),
    ("denied, but research permitted", DENY | {"provision": [PERMIT | {"purpose": purpose("HRESCH")}]}, "in"),
    (
        "permitted, but research denied",
        PERMIT | {"provision": [DENY | {"purpose": purpose("HRESCH")}]},
        "out",
    ),
    (
        "permitted, but marketing denied",
        PERMIT | {"provision": [DENY | {"purpose": purpose("HMARKT")}]},
        "in",
    ),
    (
        "permitted, but an unknown purpose denied",
        PERMIT | {"provision": [DENY | {"purpose": purpose("X")}]},
        "out",
    ),
    ("permitted for treatment", PERMIT | {"purpose": purpose("TREAT")}, "silent"),
    ("denied for payment", DENY | {"purpose": purpose("HPAYMT")}, "silent"),
    ("permitted, both nested", PERMIT | {"provision": [DENY, PERMIT]}, "out"),
    ("denied, both nested", DENY | {"provision": [DENY, PERMIT]}, "out"),
    ("permission expired", PERMIT | {"period": {"end": "2026-11-21"}}, "silent"),
    ("permission of today", PERMIT | {"period": {"start": "2026-11-22", "end": "2026-11-22"}}, "in"),
    ("permission of this month", PERMIT | {"period": {"start": "2020", "end": "2026-11"}}, "in"),
    ("permission to come", PERMIT | {"period": {"start": "2026-11-23T00:00:00Z"}}, "silent"),
    ("denial expired", DENY | {"period": {"end": "2025"}}, "silent"),
    ("nested denial expired", PERMIT | {"provision": [DENY | {"period": {"end": "2025"}}]}, "in"),
    ("period backwards", PERMIT | {"period": {"start": "2026", "end": "2025"}}, "out"),
    ("some data denied", PERMIT | {"provision": [DENY | {"dataPeriod": {"end": "2020"}}]}, "out"),
    ("some data permitted", DENY | {"provision": [PERMIT | {"dataPeriod": {"end": "2020"}}]}, "out"),
    ("some classes permitted", PERMIT | {"class": [{"code": "Observation"}]}, "out"),
    (
        "some actors permitted",
        PERMIT | {"actor": [{"role": {"text": "x"}, "reference": {"display": "y"}}]},
        "out",
    ),
    ("use permitted", PERMIT | {"action": coded("use")}, "in"),
    ("collecting permitted", PERMIT | {"action": coded("collect")}, "silent"),
    ("access denied", DENY | {"action": coded("access")}, "out"),
    ("correcting denied", DENY | {"action": coded("correct")}, "silent"),
    ("rules of its own", PERMIT | {"modifierExtension": [{"url": "http://x", "valueBoolean": True}]}, "out"),
    ("MII: scientific use", DENY | {"provision": [mii(2), mii(6), mii(7), mii(8)]}, "in"),
    ("MII: no scientific use", DENY | {"provision": [mii(2), mii(6), mii(7)]}, "out"),
    ("MII: all refused", DENY | {"provision": [mii(n, "deny") for n in (2, 6, 7, 8, 22)]}, "out"),
    ("MII: insurance data refused", DENY | {"provision": [mii(8), mii(13, "deny")]}, "in"),
    ("MII: medical data refused", PERMIT | {"provision": [mii(6, "deny")]}, "out"),
]


@pytest.mark.parametrize(
    ("provision", "expected"), [tree[1:] for tree in TREES], ids=[tree[0] for tree in TREES]
)
def test_a_tree_of_provisions_is_read_so_that_doubt_never_permits(tmp_path, provision, expected):
    resource = consent(provision=provision)
    Consent.model_validate(resource)
    opt_out = decide(tmp_path, resource, mapping=SiteMapping())
    opt_in = decide(tmp_path, resource)
    assert ("p1" in opt_out) is (expected == "out")
    assert ("p1" in opt_in) is (expected != "in")
    assert sum(opt_out.reasons.values()) == len(opt_out.ids)


@pytest.mark.parametrize(
    ("status", "provision", "opt_out", "opt_in"),
    [
        ("active", PERMIT, "in", "in"),
        ("inactive", PERMIT, "out", "out"),  # withdrawn
        ("rejected", PERMIT, "out", "out"),
        ("inactive", DENY, "in", "out"),  # an objection taken back permits nothing
        ("inactive", None, "out", "out"),
        ("rejected", DENY, "out", "out"),
        ("entered-in-error", DENY, "in", "out"),
        ("entered-in-error", PERMIT, "in", "out"),
        ("draft", PERMIT, "in", "out"),
        ("proposed", PERMIT, "in", "out"),
        ("new-status", PERMIT, "out", "out"),
        (None, PERMIT, "out", "out"),
    ],
)
def test_the_status_of_a_consent_decides(tmp_path, status, provision, opt_out, opt_in):
    resource = consent(provision=provision)
    resource = {key: value for key, value in (resource | {"status": status}).items() if value is not None}
    assert ("p1" in decide(tmp_path, resource, mapping=SiteMapping())) is (opt_out == "out")
    assert ("p1" in decide(tmp_path, resource)) is (opt_in == "out")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"policyRule": {"coding": [{"code": "OPTIN"}]}}, "in"),
        ({"policyRule": {"coding": [{"code": "OPTOUT"}]}}, "out"),
        (
            {"policyRule": {"coding": [{"code": "OPTOUT"}]}, "provision": PERMIT},
            "out",
        ),  # they contradict each other
        ({"provision": PERMIT, "dateTime": "2026-11-23"}, "silent"),
        ({"provision": DENY, "dateTime": "2026-11-23"}, "out"),
        ({"provision": PERMIT, "implicitRules": "http://x"}, "out"),
        ({"provision": DENY, "scope": {"coding": [{"code": "treatment"}]}}, "silent"),
        ({"provision": DENY, "scope": {"coding": [{"code": "adr"}]}}, "silent"),
        ({"provision": DENY, "scope": {"coding": [{"code": "patient-privacy"}]}}, "out"),
        ({"provision": DENY, "scope": {"text": "research, we think"}}, "out"),
    ],
)
def test_policy_scope_and_date_count(tmp_path, more, expected):
    resource = consent(**more)
    Consent.model_validate(resource)
    assert ("p1" in decide(tmp_path, resource, mapping=SiteMapping())) is (expected == "out")
    assert ("p1" in decide(tmp_path, resource)) is (expected != "in")


@pytest.mark.parametrize(
    ("decision", "exceptions", "expected"),
    [
        ("permit", [], "in"),
        ("deny", [], "out"),
        ("permit", [{"purpose": purpose("HRESCH")}], "out"),
        ("deny", [{"purpose": purpose("HRESCH")}], "in"),
    ],
)
def test_a_consent_of_r5_is_read(tmp_path, decision, exceptions, expected):
    resource = {
        "resourceType": "Consent",
        "id": "c",
        "status": "active",
        "subject": {"reference": "Patient/p1"},
        "decision": decision,
        "date": "2025-01-01",
    } | ({"provision": exceptions} if exceptions else {})
    ConsentR5.model_validate(resource)
    assert ("p1" in decide(tmp_path, resource)) is (expected == "out")
    assert ("p1" in decide(tmp_path, resource, mapping=SiteMapping())) is (expected == "out")


def test_the_newest_version_decides_whatever_the_order(tmp_path):
    old = consent(provision=PERMIT, meta={"versionId": "9", "lastUpdated": "2025-01-01T00:00:00Z"})
    new = consent(provision=DENY, meta={"versionId": "10", "lastUpdated": "2025-01-01T02:00:00+02:00"})
    assert Consent.model_validate(old)
    for lines in ((old, new), (new, old)):
        assert decide(tmp_path, *lines).only == frozenset()
    newer = new | {"provision": PERMIT, "meta": {"versionId": "11"}}  # without a date it is older
    later = newer | {"meta": {"lastUpdated": "2026-01-01T00:00:00Z"}}
    assert "p1" in decide(tmp_path, newer, new)
    assert "p1" not in decide(tmp_path, later, new)
    same = new | {"provision": PERMIT}
    assert "p1" in decide(tmp_path, same, new)  # nothing tells them apart: the denial holds
    assert "p1" in decide(tmp_path, new, same)


def test_of_several_consents_any_denial_holds_and_a_withdrawal_gives_way_to_a_permission(tmp_path):
    permit, deny = consent(provision=PERMIT, id="a"), consent(provision=DENY, id="b")
    withdrawn = consent(provision=PERMIT, id="c", status="inactive")
    assert "p1" in decide(tmp_path, permit, deny)
    assert "p1" not in decide(tmp_path, permit, withdrawn)
    result = decide(tmp_path, withdrawn, mapping=SiteMapping())
    assert result.reasons == {"consent withdrawn": 1}
    assert result.consents == {"consent withdrawn": 1}


@pytest.mark.parametrize(
    "reference",
    ["Patient/p1", "https://fhir.example/r4/Patient/p1", "Patient/p1/_history/3", "urn:uuid:p1"],
)
def test_patients_are_named_by_every_form_of_reference(tmp_path, reference):
    assert decide(tmp_path, consent({"reference": reference}, DENY)).ids == {"p1"}


def test_a_patient_may_be_named_by_identifier(tmp_path):
    named = {"identifier": {"system": "urn:mrn", "value": "17"}}
    people = [patient("p1", ("urn:mrn", "17")), patient("p2", ("urn:other", "17"))]
    result = decide(tmp_path, consent(named, DENY), *people, mapping=SiteMapping())
    assert (result.ids, result.nobody) == ({"p1"}, 0)
    assert decide(tmp_path, consent(named, PERMIT), *people).only == {"p1"}
    assert decide(tmp_path, consent(named, DENY), people[1]).nobody == 1


@pytest.mark.parametrize(
    "named", [None, {}, {"reference": "Group/g"}, {"reference": "#p"}, {"display": "Mr X"}]
)
def test_a_consent_that_names_nobody_is_counted(tmp_path, named):
    result = decide(tmp_path, consent(named, DENY), mapping=SiteMapping())
    assert (result.ids, result.nobody) == (frozenset(), 1)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(consent(provision=PERMIT)).encode()[:-4],
        json.dumps(consent(provision={"type": 7})).encode(),
        json.dumps(consent(provision=PERMIT)).encode().replace(b'"active"', b'"active", "status": "active"'),
        json.dumps(consent(provision=PERMIT)).encode().replace(b"hospital's", b"hospital\xff"),
        json.dumps(consent(provision=PERMIT) | {"except": [], "policyRule": "http://stu3"}).encode(),
        b'{"resourceType":"Consent","provision":' + b'{"provision":[' * 20_000 + b'"Patient/p1"',
    ],
    ids=["cut", "wrong type", "key twice", "not UTF-8", "STU3", "too deep"],
)
def test_a_consent_that_cannot_be_read_withholds_whom_it_names(tmp_path, line):
    result = decide(tmp_path, line, consent("p2", PERMIT), mapping=SiteMapping())
    assert result.ids == {"p1"}
    assert result.unread == 1
    assert result.reasons == {"the consent cannot be interpreted": 1}


def test_other_resources_that_mention_consents_are_passed_over(tmp_path):
    other = {
        "resourceType": "Provenance",
        "id": "x",
        "target": [{"type": "Consent", "reference": "Patient/p1"}],
    }
    broken = json.dumps(other).encode()[:-3]
    result = decide(tmp_path, other, broken, mapping=SiteMapping())
    assert result == Withheld()
    assert "p1" not in NOBODY


def test_a_type_in_escaped_letters_is_still_a_consent(tmp_path):
    line = json.dumps(consent(provision=DENY)).encode().replace(b'"Consent"', b'"\\u0043onsent"')
    assert decide(tmp_path, line).ids == {"p1"}


OPT_OUT = """\
# Objections, October
p1
Patient/p2
urn:mrn|17

4711
typing-error
|18
"""


def test_the_opt_out_list_takes_patients_out_and_counts_what_matches_nobody(tmp_path):
    people = [
        patient("p1"),
        patient("p2"),
        patient("p3", ("urn:mrn", "17")),
        patient("p4", ("urn:any", "4711")),
        {"resourceType": "Patient", "id": "p5", "identifier": [{"value": "18"}]},
        patient("p6", ("urn:other", "17")),
        {"resourceType": "Patient", "id": "p7", "identifier": {"value": 4711}},  # not as FHIR has it
    ]
    path = tmp_path / "out.txt"
    path.write_text(OPT_OUT)
    folder = export(tmp_path / "e", *people, {"resourceType": "Observation", "id": "p9"})
    result = withheld_patients(folder, opt_out=path, on=TODAY)
    assert result.ids == {"p1", "p2", "p3", "p4", "p5", "p7"}
    assert result.unmatched == 1
    assert result.reasons == {"on the opt-out list": 6}


def test_the_opt_out_list_beats_a_permission(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("p1")
    folder = export(
        tmp_path / "e", patient("p1"), patient("p2"), consent("p1", PERMIT), consent("p2", PERMIT)
    )
    result = withheld_patients(folder, opt_out=path, on=TODAY, mapping=OPT_IN)
    assert result.only == {"p2"}
    assert ["p1" in result, "p2" in result, "p3" in result] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("p1\np1\n", 1),
        ("patient_id\np1\n", 1),
        ("\ufeffp1\r\np2\r\n", 2),
        ("name,patient_id,date\nDoe,p1,2020\nRoe,p2,2021\n", 2),
        ('date;identifier\n2020;"urn:mrn|1"\n', 1),
        ("p1,\np2,\n", 2),
    ],
)
def test_lists_come_in_several_forms(tmp_path, text, expected):
    path = tmp_path / "out.csv"
    path.write_text(text, "utf-8", newline="")
    assert len(read_opt_out(path)) == expected


@pytest.mark.parametrize("text", ["p1,2020\n", "name,patient_id\nDoe\n", "urn:mrn|\n", '"p1\n', ","])
def test_an_ambiguous_list_is_refused_without_showing_whom_it_names(tmp_path, text):
    path = tmp_path / "out.csv"
    path.write_text(text)
    with pytest.raises(GemelError, match=r"out\.csv:\d") as caught:
        read_opt_out(path)
    assert caught.value.code == "GEM244"
    assert "p1" not in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_a_list_that_is_missing_or_no_text_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none", tmp_path / "x", tmp_path):
        with pytest.raises(GemelError) as caught:
            withheld_patients(export(tmp_path / "e", patient("p1")), opt_out=path, on=TODAY)
        assert caught.value.code == "GEM244"


def test_consents_are_decided_anew_for_each_day(tmp_path):
    resource = consent(provision=PERMIT | {"period": {"start": "2025-06-01", "end": "2026-05-31"}})
    days = {
        date(2025, 5, 31): True,
        date(2025, 6, 1): False,
        date(2026, 5, 31): False,
        date(2026, 6, 1): True,
    }
    assert {day: "p1" in decide(tmp_path, resource, on=day) for day in days} == days


def test_a_gzipped_export_is_read_too(tmp_path):
    (tmp_path / "c.ndjson.gz").write_bytes(gzip.compress(json.dumps(consent(provision=DENY)).encode()))
    assert withheld_patients(tmp_path, on=TODAY).ids == {"p1"}


RULES = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["permit", "deny"])},
        optional={
            "purpose": st.sampled_from([purpose(code) for code in ("HRESCH", "TREAT", "X")]),
            "period": st.sampled_from([{"start": "2020"}, {"end": "2020"}, {"start": "x"}]),
        },
    ),
    lambda inner: st.tuples(inner, st.lists(inner, max_size=3)).map(
        lambda pair: pair[0] | {"provision": pair[1]}
    ),
    max_leaves=6,
)


@given(RULES)
def test_one_more_denial_never_lets_a_patient_in(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("t")
    stricter = tree | {"provision": [*tree.get("provision", []), DENY]}
    if "p1" in decide(folder, consent(provision=tree)):
        assert "p1" in decide(folder, consent(provision=stricter))


@pytest.mark.parametrize(("code", "provision"), [("OPTIN", DENY), ("OPTOUT", PERMIT)])
def test_two_base_rules_that_contradict_each_other_are_no_rule(tmp_path, code, provision):
    resource = consent(provision=provision, policyRule={"coding": [{"code": code}]})
    assert decide(tmp_path, resource).reasons == {"the consent cannot be interpreted": 1}


def test_a_consent_that_cannot_be_read_and_names_nobody_is_counted(tmp_path):
    result = decide(tmp_path, b'{"resourceType": "Consent", "status": 7}', mapping=SiteMapping())
    assert (result.ids, result.unread, result.nobody) == (frozenset(), 1, 1)


@pytest.mark.parametrize(
    "entry",
    [
        "https://x.example/fhir/Patient/p5",
        "Patient/p5/_history/1",
        "https://x.example/Patient/p5/_history/1",
        "urn:uuid:p5",
    ],
)
def test_a_reference_in_any_form_takes_its_patient_out(tmp_path, entry):
    path = tmp_path / "out.txt"
    path.write_text(f"# October\n\nnobody\n{entry}\nurn:mrn|nobody\n")
    result = withheld_patients(export(tmp_path / "e", patient("p5"), patient("p6")), opt_out=path, on=TODAY)
    assert result.ids == {"p5"}
    assert (result.unmatched, result.unmatched_lines) == (2, (3, 5))


def test_at_most_a_hundred_lines_are_named(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("".join(f"n{i}\n" for i in range(150)))
    result = withheld_patients(export(tmp_path / "e", patient("p5")), opt_out=path, on=TODAY)
    assert (result.unmatched, result.unmatched_lines) == (150, tuple(range(1, 101)))
