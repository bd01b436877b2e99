"""TRIPOD+AI, filled in from what the code knows: the programme, the signed study, its certificate, an evaluation.

What cannot be known from these is said to be missing, for people to add; nothing is made up. An item is `partly` given where the code
knows a part of what it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from gemel.core.certificate_form import Certificate
from gemel.core.mechanism import HELD_OUT_PERCENT
from gemel.core.programme import DAYS_PER_YEAR, CohortDefinition, Feature, Programme, Target
from gemel.core.study import Masking, Study
from gemel.twins.evaluation.evaluation import Evaluation, RiskEvaluation
from gemel.twins.evaluation.subgroups import RULE
from gemel.twins.reporting.tripod_items import ITEMS, Item

if TYPE_CHECKING:
    from gemel.twins.definition import TwinDefinition

# Endpoint -> score -> "value" and "standard_error", as hospitals released them.
ReleasedScores = Mapping[str, Mapping[str, Mapping[str, float]]]
_ADDED_BY_PEOPLE = "Not known to the code: to be added by the authors."


class Status(StrEnum):
    """How far an item is filled in."""

    GIVEN = "given"
    PARTLY = "partly"
    MISSING = "missing"


@dataclass(frozen=True)
class FilledItem:
    """An item, how far it is filled in, and with what."""

    item: Item
    status: Status
    text: str


@dataclass(frozen=True)
class Known:
    """All that a report is written from; what is None was not there."""

    definition: TwinDefinition
    study: Study | None = None
    certificate: Certificate | None = None
    evaluation: Evaluation | None = None
    released: ReleasedScores | None = None

    @property
    def programme(self) -> Programme:
        """The programme of the definition."""
        return self.definition.programme


def tripod_ai(known: Known) -> tuple[FilledItem, ...]:
    """Every item in order, each with what is known of it."""
    texts = {
        **_introduction(known),
        **_data(known),
        **_variables(known),
        **_analysis(known),
        **_openness(known),
        **_results(known),
        **_discussion(known),
    }
    nothing = (Status.MISSING, _ADDED_BY_PEOPLE)
    return tuple(FilledItem(item, *texts.get(item.number, nothing)) for item in ITEMS)


_Texts = dict[str, tuple[Status, str]]


def _introduction(known: Known) -> _Texts:
    programme, context = known.programme, known.definition.context
    kind = "Development and evaluation" if known.study is not None else "Description"
    outcomes = ", ".join(outcome.title.lower() for outcome in programme.outcomes)
    existing = "; ".join(
        f"{baseline.title} ({baseline.source}; mark {baseline.mark})"
        for baseline in known.definition.baselines
    )
    aim = (
        "Development under differential privacy, and evaluation on held-out patients of the same hospitals."
        if known.study is not None
        else "No study was given: the programme as it is installed."
    )
    return {
        "1": (Status.GIVEN, f"{kind} of a prediction model: {programme.title}. Outcomes: {outcomes}."),
        "2": (Status.PARTLY, f"{programme.question} {_summary(known)}"),
        "3a": (
            Status.PARTLY,
            f"{programme.question} Existing models, compared here: {existing or 'none'}. The rationale is for the authors to add.",
        ),
        "3b": (
            Status.GIVEN,
            f"{_cohort(programme.cohort)} Users: {context.users} Purpose: {context.role}",
        ),
        "4": (Status.GIVEN if known.study is not None else Status.PARTLY, aim),
    }


def _summary(known: Known) -> str:
    scores = _performance(known)
    return scores[1] if scores[0] is not Status.MISSING else "Performance: not evaluated here."


def _data(known: Known) -> _Texts:
    programme, study = known.programme, known.study
    texts: _Texts = {
        "6b": (Status.GIVEN, _cohort(programme.cohort)),
        "7": (
            Status.GIVEN,
            "From each hospital's FHIR or OMOP records by one set of rules that the programme declares: codes, units, plausible bounds, "
            "windows, what counts as missing. The same for all groups. Each hospital's check report stays there.",
        ),
        "11": (
            Status.GIVEN,
            "No patient is left out for a missing feature, unless the programme says so. A missing value has an indicator of its own; "
            "in intervals it is integrated over a public reference distribution. Who left before the horizon is weighted by the "
            "inverse probability of being followed.",
        ),
        "5a": (
            Status.PARTLY,
            f"Checked on: {known.definition.validation.data}. How representative the hospitals are is for the authors to add.",
        ),
    }
    if programme.treatments:
        listed = "; ".join(
            f"{t.title} ({t.assignment}, {'recorded' if t.feature else 'not recorded: effect from literature'})"
            for t in programme.treatments
        )
        texts["6c"] = (Status.GIVEN, f"{listed}.")
    if study is not None:
        sites = f"{len(study.sites)} hospitals: {', '.join(sorted(study.sites))}"
        texts["5a"] = (Status.PARTLY, f"Routine records of {sites}. {texts['5a'][1]}")
        texts["6a"] = (Status.PARTLY, f"{sites}. Their kind and place are for the authors to add.")
    return texts


def _variables(known: Known) -> _Texts:
    programme = known.programme
    predictors = "; ".join(_predictor(feature) for feature in programme.features)
    outcomes = "; ".join(
        [f"{o.title} ({o.kind}{_concepts(o.concepts)})" for o in programme.outcomes]
        + [_target(target) for target in programme.targets]
    )
    scored = "; ".join(
        f"{e.title} by {', '.join(f'day {day}' for day in e.horizons_days) or 'its day'}"
        for e in programme.endpoints
    )
    return {
        "8a": (Status.GIVEN, f"{outcomes}. Scored: {scored}. Horizon {_horizon(programme)}."),
        "8c": (
            Status.PARTLY,
            "Outcomes are read from records by the same rules for everybody, without the predictions. Whether those who recorded them "
            "knew the predictors is not known.",
        ),
        "9a": (
            Status.PARTLY,
            f"{len(programme.features)} predictors, chosen by the programme's authors: {predictors}.",
        ),
        "9b": (Status.GIVEN, f"At the index date or before: {predictors}."),
    }


def _analysis(known: Known) -> _Texts:
    study = known.study
    texts: _Texts = {
        "12a": (
            Status.GIVEN,
            f"At each hospital {100 - HELD_OUT_PERCENT} % of the patients train, {HELD_OUT_PERCENT} % are held out, by the hash of the "
            "pseudonym: the same for ever. Held-out patients are not trained on.",
        ),
        "12b": (
            Status.GIVEN,
            "Clipped to public clinical bounds, then (value - reference mean) / scale, all public; nothing is fitted on patients to "
            "scale.",
        ),
        "12c": (
            Status.GIVEN if study is not None else Status.PARTLY,
            f"{_model(known)} {_training(study)}",
        ),
        "12d": (
            Status.PARTLY,
            "Each hospital is scored by itself, and flagged where observed and expected events part; no random effects.",
        ),
        "12e": (
            Status.GIVEN,
            "AUC (DeLong), C over time, Brier and scaled Brier score, observed over expected, calibration intercept and slope, smooth "
            "curve with ICI, net benefit; of values RMSE, MAE, CRPS; of ordinal outcomes the ranked probability score; against every "
            "published baseline on the same patients, with intervals of the difference.",
        ),
        "12f": (
            Status.GIVEN,
            "Logistic recalibration at one hospital (intercept, or intercept and slope, by a closed test), from its released tables or "
            "from its own patients.",
        ),
        "12g": (Status.GIVEN, "By the released parameters and the installed code; the same for everybody."),
        "13": (
            Status.GIVEN,
            "Nothing was resampled or reweighted for class imbalance, so predicted risks keep the level of the data.",
        ),
        "14": (Status.GIVEN, RULE),
        "15": (Status.GIVEN, f"{_output(known.programme)} No threshold of action is built in."),
    }
    if study is not None:
        texts["10"] = (
            Status.PARTLY,
            f"All eligible patients of the hospitals; at least {study.minimum_patients} at each. No sample size was computed.",
        )
    return texts


def _openness(known: Known) -> _Texts:
    texts: _Texts = {
        "18e": (
            Status.GIVEN,
            "Patients' data do not leave their hospitals. What left is differentially private, and listed in the certificate.",
        ),
        "18f": (
            Status.PARTLY,
            f"Programme {known.programme.name} {known.programme.version} of Gemel; where the code is published is for the authors to add.",
        ),
    }
    if known.study is not None:
        texts["18c"] = (
            Status.GIVEN,
            f"The signed study {known.study.study_id}, SHA-256 {known.study.sha256}, fixed before a patient was touched.",
        )
    if known.certificate is not None:
        approved = sum(1 for site in known.certificate.sites.values() if not site.code)
        texts["17"] = (
            Status.PARTLY,
            f"Data stewards of {approved} hospitals approved the study. Ethical approval and consent are for the authors to add.",
        )
    return texts


def _results(known: Known) -> _Texts:
    evaluation = known.evaluation
    texts: _Texts = {"23a": _performance(known)}
    if evaluation is not None:
        lacking = ", ".join(f"{name} {share:.0%}" for name, share in evaluation.missing.items() if share > 0)
        counts = "; ".join(
            f"{e.endpoint} by day {e.day}: {e.known} known of {e.patients} at risk, {e.events} events"
            if isinstance(e, RiskEvaluation)
            else f"{e.endpoint}: {e.scores.patients} measured"
            for e in evaluation.endpoints
        )
        texts["20a"] = (Status.PARTLY, f"{evaluation.patients} evaluated. {counts}.")
        texts["20b"] = (Status.PARTLY, f"Missing: {lacking or 'nothing'}.")
        texts["21"] = (Status.PARTLY, f"Evaluation: {counts}.")
        by_site = [
            g for e in evaluation.endpoints for g in e.subgroups if g.by in ("site", "country", "hospital")
        ]
        if by_site:
            off = sorted({g.name for g in by_site if g.flagged})
            texts["23b"] = (
                Status.GIVEN,
                f"{len({g.name for g in by_site})} clusters; flagged: {', '.join(off) or 'none'}.",
            )
    if known.certificate is not None:
        last = known.certificate.model_sha256
        texts["22"] = (
            Status.GIVEN if last else Status.MISSING,
            f"Parameters with SHA-256 {last}, in the registry, with the installed code."
            if last
            else _ADDED_BY_PEOPLE,
        )
    return texts


def _performance(known: Known) -> tuple[Status, str]:
    if known.evaluation is not None:
        return Status.GIVEN, " ".join(_scored(e) for e in known.evaluation.endpoints)
    if known.released:
        parts = [
            f"{endpoint}: "
            + ", ".join(
                f"{name} {s['value']:.3f} (SE {s['standard_error']:.3f})" for name, s in scores.items()
            )
            for endpoint, scores in known.released.items()
        ]
        return Status.PARTLY, f"From noised tables: {'; '.join(parts)}. No subgroups were released."
    return Status.MISSING, _ADDED_BY_PEOPLE


def _scored(scored: Any) -> str:
    if isinstance(scored, RiskEvaluation):
        auc, ratio = scored.auc, scored.calibration.observed_over_expected
        return (
            f"{scored.title} by day {scored.day}: AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}), observed over expected "
            f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), Brier score {scored.brier.value:.4f}."
        )
    error = scored.scores.rmse
    return f"{scored.title}: RMSE {error.value:.3g} {scored.unit} ({error.low:.3g} to {error.high:.3g})."


def _discussion(known: Known) -> _Texts:
    validation, context = known.definition.validation, known.definition.context
    return {
        "26": (Status.GIVEN, " ".join(validation.limits)),
        "27a": (
            Status.GIVEN,
            "Any subset of the features may be missing; the interval widens, and by how much is said. Values out of the public bounds are "
            "refused for a single patient.",
        ),
        "27b": (Status.GIVEN, f"{context.users} Not for: {'; '.join(context.not_for)}."),
        "27c": (Status.GIVEN, f"Missing for more: {'; '.join(validation.missing)}."),
    }


def _cohort(cohort: CohortDefinition) -> str:
    parts = [
        f"Age {cohort.minimum_age_years:g} to {cohort.maximum_age_years:g}",
        f"index date: {cohort.index.which} {cohort.index.kind}{_concepts(cohort.index.concepts)}",
        f"followed for at least {cohort.minimum_follow_up_days} days",
    ]
    parts += [f"required: {criterion.reason}" for criterion in cohort.required]
    parts += [f"excluded: {criterion.reason}" for criterion in cohort.exclusions]
    return f"{'; '.join(parts)}."


def _predictor(feature: Feature) -> str:
    return f"{feature.title} ({feature.kind}, {feature.unit}; {feature.source})"


def _target(target: Target) -> str:
    day = f", day {target.at_days}" if target.at_days is not None else ""
    return f"{target.title} ({target.kind}{_concepts(target.concepts)}{day})"


def _concepts(concepts: tuple[str, ...]) -> str:
    return f": {', '.join(concepts)}" if concepts else ""


def _horizon(programme: Programme) -> str:
    years = programme.times_years[-1]
    return f"{years:.3g} years" if years >= 1 else f"{years * DAYS_PER_YEAR:.0f} days"


def _model(known: Known) -> str:
    parameters = sum(len(physiology.parameters) for physiology in known.definition.physiology)
    mechanism = (
        f"with {len(known.definition.physiology)} physiological models of {parameters} parameters, each with its source"
        if known.definition.physiology
        else "without a physiological model"
    )
    return f"Competing hazards in discrete time and heads for other targets, {mechanism}."


def _training(study: Study | None) -> str:
    if study is None:
        return "How it was trained: no study was given."
    plan = ", ".join(f"{name} {value}" for name, value in msgspec.to_builtins(study.training).items())
    masked = "under secure aggregation" if study.aggregation.masking is Masking.SECURE else "without masks"
    return (
        f"Trained over {len(study.sites)} hospitals {masked} with patient-level differential privacy, ε {study.privacy.epsilon:g}, "
        f"δ {study.privacy.delta:g} for everything together: {plan}."
    )


def _output(programme: Programme) -> str:
    return (
        f"Probability of each outcome and state over {_horizon(programme)}"
        f"{', and ' + ', '.join(target.title.lower() for target in programme.targets) if programme.targets else ''}, with intervals."
    )
