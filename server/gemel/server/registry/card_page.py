"""A model card for people: the JSON card as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def card_markdown(card: Mapping[str, Any]) -> str:
    """The whole card on one page."""
    programme, model, privacy, lineage = (card[name] for name in ("programme", "model", "privacy", "lineage"))
    rounds = card["training"]["rounds_done"]
    lines = [
        f"# {programme['title']}",
        "",
        f"{programme['question']}",
        "",
        f"*{model['state']} twin, version {model['version']}, after {rounds} rounds; `{model['sha256']}`*",
        "",
        "## Intended use",
        "",
        card["intended_use"],
        "",
        f"**Not for:** {card['not_intended']}",
        "",
        *_validation(card["twin"]),
        "## How good it is",
        "",
        *_evaluation(card["evaluation"]),
        "## Known limits",
        "",
        *(f"- {limit}" for limit in card["limits"]),
        "",
        "## Privacy",
        "",
        f"Unit: {privacy['unit']}; neighbouring: {privacy['neighbouring']}. The whole study costs each patient at most "
        f"ε = {privacy['epsilon']:.4g} at δ = {privacy['delta']:g}. Masking: {privacy['masking']}.",
        "",
        *_table(
            ("hospital", "ε spent there, all studies"),
            (
                (site, "not told" if spent is None else f"{spent:.4f}")
                for site, spent in privacy["spent_at_hospitals"].items()
            ),
        ),
        "## Whom it was trained on",
        "",
        *_cohort(card["cohort"]),
        *_features(card["features"]),
        f"Outcomes, each within {_horizon(programme)}: "
        f"{', '.join(outcome['title'] for outcome in programme['outcomes'])}.",
        "",
        *_targets(programme["targets"]),
        "## How it was trained",
        "",
        *_training(card["training"]),
        "## Where it comes from",
        "",
        *_lineage(lineage),
        "## Files",
        "",
        f"`model.safetensors`, {model['bytes']:,} bytes: "
        + ", ".join(f"{name} {tuple(spec['shape'])}" for name, spec in model["parameters"].items())
        + f". ONNX: {model['onnx']}.",
        "",
    ]
    return "\n".join(lines)


def _evaluation(evaluation: Mapping[str, Any]) -> list[str]:
    scores = evaluation["scores"]
    rows = [
        (endpoint, name, f"{score['value']:.3f}", f"± {score['standard_error']:.3f}")
        for endpoint, of in (scores or {}).items()
        for name, score in of.items()
    ]
    return [
        *(_table(("endpoint", "score", "value", "standard error"), rows) if rows else []),
        evaluation["note"],
        "",
        *_calibration(evaluation),
    ]


def _validation(twin: Mapping[str, Any]) -> list[str]:
    use, validation = twin["context_of_use"], twin["validation"]
    return [
        "## How far it is validated",
        "",
        f"Grade: **{validation['grade']}**. {validation['data']}. Role: {use['role']}",
        "",
        f"Risk of deciding by it (influence {use['influence']}, consequence {use['consequence']}): {use['risk']}.",
        "",
        *(f"- missing: {part}" for part in validation["missing"]),
        *(f"- {limit}" for limit in validation["limits"]),
        *(f"- not for {what}" for what in use["not_for"]),
        "",
    ]


def _calibration(evaluation: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            hospital,
            endpoint,
            f"{fit['value']:.2f} ({fit['low']:.2f} to {fit['high']:.2f})",
            f"**{fit['flag']}**" if fit["flag"].startswith("needs") else fit["flag"],
        )
        for hospital, of in (evaluation["calibration"] or {}).items()
        for endpoint, fit in of.items()
    ]
    if not rows:
        return []
    headings = ("hospital", "endpoint", "observed over expected", "before use there")
    return ["### Calibration", "", *_table(headings, rows), evaluation["calibration_note"], ""]


def _horizon(programme: Mapping[str, Any]) -> str:
    days = programme["grid_days"]
    return f"{days[-1]} days" if days else f"{programme['horizon_years']:g} years"


def _targets(targets: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (t["title"], t["kind"], "" if t["at_days"] is None else str(t["at_days"]), t["unit"]) for t in targets
    ]
    return _table(("target", "kind", "day", "unit"), rows) if rows else []


def _features(features: Iterable[Mapping[str, Any]]) -> list[str]:
    return _table(
        ("feature", "unit", "bounds", "reference mean", "scale", "source"),
        (
            (
                feature["title"],
                feature["unit"],
                f"{feature['low']:g} to {feature['high']:g}",
                f"{feature['reference_mean']:g}",
                f"{feature['scale']:g}",
                feature["source"],
            )
            for feature in features
        ),
    )


def _cohort(cohort: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- age {cohort['minimum_age_years']:g} to {cohort['maximum_age_years']:g} years at the index date",
        f"- followed for at least {cohort['minimum_follow_up_days']} days",
        f"- index date: {cohort['index']['which']} {cohort['index']['kind']}",
        f"- recorded for at least {cohort['minimum_look_back_days']} days before",
    ]
    lines += [f"- required: {criterion['reason']}" for criterion in cohort["required"]]
    lines += [f"- out: {criterion['reason']}" for criterion in cohort["exclusions"]]
    return [*lines, ""]


def _training(training: Mapping[str, Any]) -> list[str]:
    names = (
        "local_steps",
        "learning_rate",
        "momentum",
        "max_grad_norm",
        "sample_rate",
        "noise_multiplier",
        "clipping",
    )
    rows = [(name.replace("_", " "), _word(training[name])) for name in names]
    strategy, aggregation = training["strategy"], training["aggregation"]
    rows += [
        ("rounds", f"{training['rounds_done']} of {training['rounds']}"),
        ("strategy", strategy["algorithm"]),
        ("personalisation", strategy["personalisation"]),
        ("aggregation", aggregation["rule"]),
        ("masking", aggregation["masking"]),
    ]
    return _table(("setting", "value"), rows)


def _lineage(lineage: Mapping[str, Any]) -> list[str]:
    hashes = [
        ("study", f"{lineage['study_id']}, `{lineage['study_sha256']}`"),
        ("programme", lineage["programme"]),
        (
            "certificate",
            f"`{lineage['certificate_sha256']}`" if lineage["certificate_sha256"] else "none yet",
        ),
        ("trained from", f"`{lineage['parent_sha256']}`" if lineage["parent_sha256"] else "the public start"),
    ]
    hospitals = (
        (site, of["fingerprint"], str(len(of["rounds"])), of["software"].get("gemel", "not told"))
        for site, of in lineage["hospitals"].items()
    )
    return [
        *_table(("what", "which"), hashes),
        *_table(("hospital", "key", "rounds", "gemel"), hospitals),
        lineage["snapshots"],
        "",
    ]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; what stands in a cell can neither end it nor start markup of its own."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
