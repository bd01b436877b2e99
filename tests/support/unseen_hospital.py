"""A made-up hospital that no code here was written for: local codes, odd units, German texts, broken lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAB = "https://klinikum-beispiel.example/labor"
PATIENTS = 40
# What its data steward knows and nobody else: what each local word means.
ANSWERS = {
    f"{LAB}|HDLC": '"hdl_cholesterol"',
    "BMI-G": '"body_mass_index"',
    f"{LAB}|RRSYS": '"systolic_blood_pressure"',
    "urn:oid:1.2.276.0.76.5.999|FETTL": '"fatty_liver"',
    "MG PRO DL": '"mg/dL"',
    "mmHg art.": '"mm[Hg]"',
    "body_mass_index": '"kg/m2"',
}


def write_export(folder: Path) -> Path:
    """Write the export: every patient has every local word, and the files hold what real ones do."""
    folder.mkdir(parents=True)
    files: dict[str, list[str]] = {"Patient.ndjson": [], "Encounter.ndjson": [], "Observation.ndjson": []}
    files["Condition.ndjson"] = []
    for i in range(PATIENTS):
        for name, resource in _records(i):
            files[name].append(json.dumps(resource, ensure_ascii=False))
    whole = files["Observation.ndjson"][0]
    files["Observation.ndjson"] += [
        whole[: len(whole) // 2],
        whole + whole,
        '{"resourceType": "Observation"}',
        "",
    ]
    files["Condition.ndjson"].append(json.dumps(_condition("unbekannt", "x1", "2012")))
    for name, lines in files.items():
        (folder / name).write_text("".join(line + "\n" for line in lines), "utf-8")
    (folder / "Lies mich.pdf").write_bytes(b"%PDF")
    return folder


def _records(i: int) -> list[tuple[str, dict[str, Any]]]:
    key = f"P{i:03d}"
    subject = {"reference": f"Patient/{key}"}
    patient = {
        "resourceType": "Patient",
        "id": key,
        "gender": "female" if i % 2 else "male",
        "birthDate": f"{1940 + i}",
        "name": [{"family": "Müller", "given": ["Jörg"]}],
    }
    encounters = [
        {
            "resourceType": "Encounter",
            "id": f"{key}-e{year}",
            "status": "finished",
            "class": {"code": "IMP"},
            "subject": subject,
            "period": {"start": f"{year}-03-01T08:00:00+01:00", "end": f"{year}-03-04T11:00:00+01:00"},
        }
        for year in (2011, 2016)
    ]
    found = [
        _observation(key, "hdl", LAB, "HDLC", "HDL-Cholesterin", 35 + i, "MG PRO DL"),
        _observation(key, "bmi", None, "BMI-G", "Körpermaßindex", 22 + i / 4, None),
        _observation(key, "rr", LAB, "RRSYS", "Blutdruck systolisch", 110 + i, "mmHg art."),
        _observation(key, "x", LAB, "KALZ", "Kalzium <i>frei</i>", 1.2, "mmol/L"),
    ]
    conditions = [_condition(key, f"{key}-c", "2010-11")] if i % 2 else []
    return [
        ("Patient.ndjson", patient),
        *(("Encounter.ndjson", one) for one in encounters),
        *(("Observation.ndjson", one) for one in found),
        *(("Condition.ndjson", one) for one in conditions),
    ]


def _observation(
    key: str, name: str, system: str | None, code: str, display: str, value: float, unit: str | None
) -> dict[str, Any]:
    coding = {"code": code, "display": display} | ({"system": system} if system else {})
    return {
        "resourceType": "Observation",
        "id": f"{key}-{name}",
        "status": "final",
        "code": {"coding": [coding], "text": f"{display} ({key})"},
        "subject": {"reference": f"Patient/{key}"},
        "effectiveDateTime": "2011-03-01T09:30:00+01:00",
        "valueQuantity": {"value": value} | ({"unit": unit} if unit else {}),
    }


def _condition(patient: str, key: str, onset: str) -> dict[str, Any]:
    coding = {"system": "urn:oid:1.2.276.0.76.5.999", "code": "FETTL", "display": "Fettleber"}
    return {
        "resourceType": "Condition",
        "id": key,
        "code": {"coding": [coding]},
        "subject": {"reference": f"Patient/{patient}"},
        "onsetDateTime": onset,
    }


def fill_in(suggested: str) -> str:
    """A suggested mapping as the data steward leaves it: the lines that they know, and nothing else."""
    lines = []
    for line in suggested.splitlines():
        if line.startswith("["):
            lines.append(line)
        left, equals, _ = line.removeprefix("# ").partition(" = ")
        if line.startswith("# ") and equals and left.strip('"') in ANSWERS:
            lines.append(f"{left} = {ANSWERS[left.strip(chr(34))]}")
    return "\n".join(lines) + "\n"
