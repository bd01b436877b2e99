"""A twin's model card: what it is for, whom it was trained on, by what, at what privacy price, how good, and what is not known.

Everything is read off the installed programme, the signed study, the run's state and its certificate; nothing is typed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gemel.core.arrays import ArraySpec
from gemel.core.programme import Feature, Programme
from gemel.core.signing import SignedDocument, fingerprint
from gemel.core.study import Masking, Study
from gemel.privacy.accounting import price
from gemel.server.registry.evaluation import Calibration, Scores
from gemel.server.registry.twin_versions import TwinVersion
from gemel.twins.definition import TwinDefinition
from gemel.twins.reporting import card_fields

SCHEMA = "gemel/model-card/1"
INTENDED = (
    "Research on the programme's question: foresight for groups of patients like those of the cohort below, "
    "virtual cohorts, and what-ifs as statements about the model."
)
NOT_INTENDED = (
    "No medical device. Not for deciding on one patient's care, and not for patients outside the cohort or the "
    "features' bounds, before it was validated where it is used."
)
CALIBRATION = (
    "Observed over expected events with 95 % intervals (sampling and noise), at each endpoint's last horizon. A hospital that "
    "is flagged recalibrates on its own patients before it uses the twin; that costs no budget, as it stays there. What "
    "bins hide is allowed for, so that a smaller error than that is not flagged from tables: each hospital checks its own."
)
SNAPSHOTS = (
    "Which records each hospital trained on is bound by hash in that hospital's ledger and approval; the hashes stay there, "
    "because one that left could be compared with a guess of the records."
)


def model_card(
    study: Study,
    definition: TwinDefinition,
    version: TwinVersion,
    *,
    state: Mapping[str, Any],
    certificate: SignedDocument | None,
    scores: Scores | None,
    calibration: Calibration | None,
    parameters: Mapping[str, ArraySpec],
    size: int,
    onnx: str,
) -> dict[str, Any]:
    """The card as JSON values.

    Args:
        study: What the hospitals approved.
        definition: Of the programme, as it is installed here.
        version: Which twin of the run.
        state: The run's state; its tasks up to this version count as the twin's history.
        certificate: Of the run, when it has ended and this is its last twin.
        scores: As the hospitals released them, of this very twin.
        calibration: Of the same tables, whether each hospital needs to recalibrate it.
        parameters: What the safetensors file holds.
        size: Its bytes.
        onnx: "exported", or the reason why there is none.
    """
    tasks, programme = _until(state, version), definition.programme
    return {
        "schema": SCHEMA,
        "model": {
            "sha256": version.sha256,
            "version": version.version,
            "state": "final" if certificate is not None else "checkpoint",
            "made_by": version.task,
            "parameters": {name: msgspec.to_builtins(spec) for name, spec in parameters.items()},
            "bytes": size,
            "onnx": onnx,
        },
        "programme": _programme(programme),
        "twin": card_fields(definition),
        "cohort": msgspec.to_builtins(programme.cohort),
        "features": [_feature(feature) for feature in programme.columns],
        "training": _training(study, tasks),
        "privacy": _privacy(study, state),
        "evaluation": {
            "scores": scores,
            "note": _evaluation_note(scores, certificate),
            "calibration": calibration,
            "calibration_note": CALIBRATION if calibration else "",
        },
        "lineage": _lineage(study, version, tasks, state, certificate),
        "limits": _limits(study, programme, tasks, certificate),
        "intended_use": INTENDED,
        "not_intended": NOT_INTENDED,
        "sources": _sources(programme),
    }


def _programme(programme: Programme) -> dict[str, Any]:
    return {
        "name": programme.name,
        "version": programme.version,
        "title": programme.title,
        "question": programme.question,
        "horizon_years": programme.times_years[-1],
        "grid_days": list(programme.grid_days),
        "outcomes": [msgspec.to_builtins(outcome) for outcome in programme.outcomes],
        "targets": [msgspec.to_builtins(target) for target in programme.targets],
        "endpoints": [msgspec.to_builtins(endpoint) for endpoint in programme.endpoints],
        "treatments": [msgspec.to_builtins(treatment) for treatment in programme.treatments],
    }


def _training(study: Study, tasks: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(study.training),
        "rounds_done": sum(task["task"].startswith("train/") for task in tasks),
        "strategy": msgspec.to_builtins(study.strategy),
        "aggregation": msgspec.to_builtins(study.aggregation),
        "pace": msgspec.to_builtins(study.pace),
    }


def _until(state: Mapping[str, Any], version: TwinVersion) -> list[Mapping[str, Any]]:
    """The closed tasks up to the one that made this version."""
    tasks: list[Mapping[str, Any]] = list(state.get("tasks", []))
    names = [task["task"] for task in tasks]
    return tasks[: names.index(version.task) + 1] if version.task in names else tasks


def _feature(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "title": feature.title,
        "kind": str(feature.kind),
        "unit": feature.unit,
        "low": feature.low,
        "high": feature.high,
        "reference_mean": feature.reference_mean,
        "scale": feature.scale,
        "source": feature.source,
    }


def _privacy(study: Study, state: Mapping[str, Any]) -> dict[str, Any]:
    delta, sites = study.privacy.delta, state.get("sites", {})
    return {
        "unit": "patient",
        "neighbouring": "add or remove one patient of a hospital",
        "epsilon": price(study.charges(), delta=delta),
        "stated_epsilon": study.privacy.epsilon,
        "delta": delta,
        "mechanisms": [msgspec.to_builtins(charge) for charge in study.charges()],
        # Of one who were part of everything at that hospital, other studies included.
        "spent_at_hospitals": {
            site: sites.get(site, {}).get("epsilon_spent") for site in sorted(study.sites)
        },
        "masking": str(study.aggregation.masking),
    }


def _evaluation_note(scores: Scores | None, certificate: SignedDocument | None) -> str:
    if scores is not None:
        return (
            "On held-out patients of the hospitals that took part, from noised tables; standard errors hold sampling and "
            "privacy noise. Bins lower an AUC by up to 0.02 and raise an rmse by less than 0.41 bin widths, which no error shows."
        )
    if certificate is None:
        return "Not evaluated: a checkpoint of a run, kept so that the run can go on."
    return "Not evaluated: the run has no evaluation of this twin that can be read."


def _lineage(
    study: Study,
    version: TwinVersion,
    tasks: list[Mapping[str, Any]],
    state: Mapping[str, Any],
    certificate: SignedDocument | None,
) -> dict[str, Any]:
    sites, software = state.get("sites", {}), {}
    for site in sorted(study.sites):
        software[site] = sites.get(site, {}).get("software", {})
    return {
        "study_id": study.study_id,
        "study_sha256": study.sha256,
        "programme": f"{study.programme}@{study.programme_version}",
        "certificate_sha256": certificate.payload_sha256 if certificate is not None else "",
        "certificate_status": certificate.payload.get("status", "") if certificate is not None else "",
        "parent_sha256": version.parent_sha256,
        "start_sha256": state.get("start_model_sha256", ""),
        "hospitals": {
            site: {
                "fingerprint": fingerprint(key),
                "rounds": [
                    task["task"]
                    for task in tasks
                    if task["task"].startswith("train/")
                    and any(line["site"] == site for line in task["contributions"])
                ],
                "software": software[site],
            }
            for site, key in sorted(study.sites.items())
        },
        "releases": [
            {"task": task["task"], "site": line["site"], "payload_sha256": line["payload_sha256"]}
            for task in tasks
            for line in task["contributions"]
        ],
        "snapshots": SNAPSHOTS,
    }


def _limits(
    study: Study,
    programme: Programme,
    tasks: list[Mapping[str, Any]],
    certificate: SignedDocument | None,
) -> list[str]:
    rounds = [task for task in tasks if task["task"].startswith("train/")]
    took_part = {line["site"] for task in rounds for line in task["contributions"]}
    never = sorted(set(study.sites) - took_part)
    gaps = sum(len(task["missing"]) for task in rounds)
    limits = [
        f"Trained under noise: ε = {study.privacy.epsilon:g} for each patient, everything included; small effects may be lost.",
        f"Trained at {len(took_part)} of {len(study.sites)} hospitals that were asked"
        + (f"; never heard of: {', '.join(never)}." if never else "."),
        "A hospital's coding habits, and who comes to it, are part of what was learned.",
        "A value beyond its public bounds is taken as the bound; a missing one as the reference, with a mark where the "
        "programme has one.",
    ]
    if gaps:
        limits.append(f"Hospitals were missing {gaps} times from the rounds that made it.")
    if len(rounds) < study.training.rounds:
        limits.append(f"{len(rounds)} of {study.training.rounds} planned rounds.")
    if study.strategy.local_parameters:
        limits.append(
            "Not whole: "
            + ", ".join(study.strategy.local_parameters)
            + " were trained at each hospital and stay there."
        )
    if study.aggregation.masking is Masking.SECURE:
        limits.append("Single hospitals' updates were masked: nobody could look for a poisoned one.")
    unverified = [c.title for c in programme.concepts if not all(code.verified for code in c.codes)]
    if unverified:
        limits.append(f"Codes not checked against a source: of {', '.join(unverified)}.")
    if certificate is None:
        limits.append("A checkpoint of a run: superseded when the run goes on.")
    elif certificate.payload.get("status") != "complete":
        limits.append(f"The run stopped early: {certificate.payload.get('code', '')}.")
    return limits


def _sources(programme: Programme) -> list[dict[str, Any]]:
    """Where the numbers and codes of the programme come from, each with whether it was checked."""
    sources: list[dict[str, Any]] = [
        {"of": feature.name, "source": feature.source, "verified": None} for feature in programme.columns
    ]
    for concept in programme.concepts:
        sources += [
            {"of": f"{concept.name}: {code.code}", "source": code.source, "verified": code.verified}
            for code in concept.codes
        ]
    return sources
