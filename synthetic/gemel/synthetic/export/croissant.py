"""The cohort's description for machine learning: Croissant (JSON-LD) with its responsible-AI terms and a `dp:` block.

Croissant has no terms for differential privacy; those of `dp:` are our own and say so by their namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT
from gemel.core.programme import FeatureKind
from gemel.synthetic.export.releasing import condition_in_words, decision_sha256
from gemel.synthetic.provenance import PrivacyStatement, posterior_from_even_odds

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort
    from gemel.synthetic.report.gate import Decision

CROISSANT = "croissant.json"
DP_NAMESPACE = "urn:gemel:differential-privacy#"
LICENCE_NOTE = "Whoever publishes the cohort states its licence; none is granted by this file."
LIMITATIONS = (
    "Relations that were not measured are those of a model: estimates of rare subgroups, and intervals computed as if "
    "these were real patients, are not to be trusted."
)
USES = "Teaching, software tests, planning of studies, and first looks before the real data are asked for."
NOT_FOR = "Training of twins, decisions about a person, estimates of rare subgroups."

# The context that the specification of Croissant 1.0 recommends, and ours.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "prov": "http://www.w3.org/ns/prov#",
    "dp": DP_NAMESPACE,
}
_FORMATS = {
    ".ndjson": "application/fhir+ndjson",
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
}


def croissant(cohort: VirtualCohort, files: Mapping[str, str], *, decision: Decision) -> dict[str, Any]:
    """The JSON-LD document about the files (SHA-256 by name) of a cohort that leaves by a decision."""
    provenance, programme = cohort.provenance, cohort.programme
    whole = provenance.whole
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": f"virtual-cohort-{cohort.release}",
        "description": f"{len(cohort)} virtual patients, none of whom exists. {programme.question} "
        f"{condition_in_words(cohort)}".rstrip(),
        "identifier": f"urn:gemel:release:{cohort.release}",
        "version": programme.version,
        "datePublished": provenance.created[:10],
        "license": LICENCE_NOTE,
        "isLiveDataset": False,
        "citeAs": f"Gemel virtual cohort {cohort.release} of the study {provenance.study!r} (SHA-256 {provenance.study_sha256}).",
        "rai:hasSyntheticData": True,
        "rai:dataCollectionType": ["Synthetic"],
        "rai:dataCollection": f"Sampled from differentially private releases of the study {provenance.study!r}; no record "
        "of a patient was read to make it.",
        "rai:dataLimitations": LIMITATIONS,
        "rai:dataBiases": "Noise hides small groups first: look at the report's rows by sex, age and site.",
        "rai:personalSensitiveInformation": [
            f"None of a real person; one hospital patient more or less changes any outcome's odds by at most e^{whole.epsilon:g}."
        ],
        "rai:dataUseCases": [USES, f"Not for: {NOT_FOR}"],
        "prov:wasDerivedFrom": {"@id": f"urn:sha256:{provenance.study_sha256}"},
        "dp:statement": _statement(whole),
        "dp:release": _release(decision),
        "distribution": [_file(name, digest) for name, digest in sorted(files.items())],
        "recordSet": _record_sets(cohort, files),
    }


def _statement(whole: PrivacyStatement) -> dict[str, Any]:
    return {
        "@type": "dp:PrivacyStatement",
        "dp:epsilon": whole.epsilon,
        "dp:delta": whole.delta,
        "dp:unit": whole.unit,
        "dp:neighbouring": whole.neighbouring,
        "dp:noise": whole.noise,
        "dp:posteriorFromEvenOdds": round(posterior_from_even_odds(whole.epsilon), 6),
        "dp:mechanism": [
            {
                "@type": "dp:Mechanism",
                "dp:kind": mechanism.kind.value,
                "dp:noiseMultiplier": mechanism.noise_multiplier,
                "dp:sampleRate": mechanism.sample_rate,
                "dp:count": mechanism.count,
            }
            for mechanism in whole.mechanisms
        ],
    }


def _release(decision: Decision) -> dict[str, Any]:
    """On whose word the cohort leaves."""
    override = decision.override
    return {
        "@type": "dp:Release",
        "dp:outcome": decision.outcome.value,
        "dp:reportSha256": decision.report_sha256,
        "dp:modelSha256": decision.model_sha256,
        "dp:decisionSha256": decision_sha256(decision),
        "dp:failed": list(decision.failed),
        "dp:notTested": list(decision.untested),
        **(
            {"dp:releasedBy": override.by, "dp:reason": override.reason, "dp:releasedAt": override.at}
            if override is not None
            else {}
        ),
    }


def _file(name: str, digest: str) -> dict[str, Any]:
    ending = name[name.rindex(".") :]
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": _FORMATS.get(ending, "application/octet-stream"),
        "sha256": digest,
    }


def _record_sets(cohort: VirtualCohort, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """The columns of the table, from Parquet, else from CSV; none without either."""
    source = next((name for name in ("cohort.parquet", "cohort.csv") if name in files), None)
    if source is None:
        return []
    programme = cohort.programme
    columns = [
        ("virtual_patient", "the id of the Patient in FHIR", "sc:Text"),
        ("synthetic", "true in every row", "sc:Boolean"),
    ]
    columns += [(f.name, f"{f.title}, {_unit(f.unit, f.kind)}", "sc:Float") for f in programme.columns]
    for outcome in programme.outcomes:
        columns += [
            (
                f"{outcome.name}_time_years",
                f"years to: {outcome.title}, or to the end of follow-up",
                "sc:Float",
            ),
            (
                f"{outcome.name}_event",
                f"{OCCURRED} occurred then, {CENSORED} censored then, {PREVALENT} before the index date",
                "sc:Integer",
            ),
        ]
    by_name = {target.name: target for target in programme.targets}
    columns += [
        (name, f"{by_name[name].title}, UCUM {by_name[name].unit}", "sc:Float")
        for name in programme.target_names
    ]
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"patients/{name}",
            "name": name,
            "description": description,
            "dataType": kind,
            "source": {"fileObject": {"@id": source}, "extract": {"column": name}},
        }
        for name, description, kind in columns
    ]
    key = {"@id": "patients/virtual_patient"}
    return [{"@type": "cr:RecordSet", "@id": "patients", "name": "patients", "key": key, "field": fields}]


def _unit(unit: str, kind: FeatureKind) -> str:
    yes_or_no = kind in (FeatureKind.MALE, FeatureKind.PRESENT)
    return "1 yes, 0 no" if yes_or_no else f"UCUM {unit}"
