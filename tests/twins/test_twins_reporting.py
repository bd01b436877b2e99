"""Reports: every item is there, nothing is made up, and exact numbers stay inside."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import three_kinds
from three_kinds import PROGRAMME, people, three_kinds_twin

from gemel.core.errors import GemelError
from gemel.twins.claims import Claim, Gate, Grade, check_claims
from gemel.twins.definition import ContextOfUse, Validation
from gemel.twins.evaluation import evaluate_prediction
from gemel.twins.installed import definition_of, installed
from gemel.twins.parameters import Mark
from gemel.twins.published_score import Points, PublishedScore, points
from gemel.twins.reporting import Audience, Status, card_fields, credibility, model_risk, report, tripod_ai
from gemel.twins.reporting.credibility import FACTORS, LEVELS
from gemel.twins.reporting.tripod_ai import Known
from gemel.twins.reporting.tripod_items import ITEMS
from gemel.twins.uncertainty import coverage

CONTEXT = ContextOfUse(
    question="Whom would it help?",
    role="Informs research.",
    users="Statisticians.",
    influence="medium",
    consequence="high",
    credibility={"model_form": "read in a book"},
    not_for=("children",),
)
VALIDATION = Validation(
    grade=Grade.GENERIC, data="made-up people", missing=("real people",), limits=("All is made up.",)
)
SCORE = PublishedScore(
    name="age",
    title="Age score",
    source="Nobody, 1999",
    mark=Mark.SECOND_HAND,
    endpoint="death",
    formula=points(Points("age_years", (65,), (0, 1))),
    inputs=("age_years",),
)
DEFINITION = SimpleNamespace(
    programme=PROGRAMME, context=CONTEXT, validation=VALIDATION, baselines=(SCORE,), physiology=(), claims=()
)


def claim(name, gate, computed):
    return Claim(
        name=name,
        statement=f"{name} is about 1.",
        gate=gate,
        value=1.0,
        low=0.9,
        high=1.1,
        unit="1",
        source="a table",
        mark=Mark.VERIFIED,
        compute=lambda _: computed,
    )


CLAIMS = check_claims(
    [claim("first", Gate.G0, 1.0), claim("second", Gate.G0, 2.0), claim("third", Gate.G1, 1.05)]
)


@pytest.fixture(scope="module")
def evaluation():
    twin = three_kinds_twin()
    data = three_kinds.dataset(twin, people(1500, seed=1, missing=0.2), seed=2)
    site = np.where(np.arange(1500) % 3 == 0, "north", "south")
    return evaluate_prediction(
        twin.predict(data.values), data, PROGRAMME, baselines=(SCORE,), groups={"site": site}
    )


def by_number(known):
    return {filled.item.number: filled for filled in tripod_ai(known)}


def test_there_are_27_items_in_order_each_once():
    numbers = [item.number for item in ITEMS]
    assert len(numbers) == len(set(numbers)) == 52
    assert [int(re.match(r"\d+", n)[0]) for n in numbers] == sorted(
        int(re.match(r"\d+", n)[0]) for n in numbers
    )
    assert {int(re.match(r"\d+", n)[0]) for n in numbers} == set(range(1, 28))


def test_what_nobody_knows_is_missing():
    found = by_number(Known(DEFINITION))
    for number in ("3c", "5b", "8b", "9c", "17", "18a", "18b", "18d", "19", "20c", "24", "25"):
        assert found[number].status is Status.MISSING
        assert "added by the authors" in found[number].text


def test_without_an_evaluation_there_is_no_performance(evaluation):
    assert by_number(Known(DEFINITION))["23a"].status is Status.MISSING
    filled = by_number(Known(DEFINITION, evaluation=evaluation))["23a"]
    assert filled.status is Status.GIVEN
    assert f"{evaluation.risk('death').auc.value:.3f}" in filled.text
    assert by_number(Known(DEFINITION, evaluation=evaluation))["23b"].status is Status.GIVEN


def test_released_scores_are_told_with_their_errors():
    released = {"death": {"auc_10y": {"value": 0.8123, "standard_error": 0.0211}}}
    filled = by_number(Known(DEFINITION, released=released))["23a"]
    assert filled.status is Status.PARTLY
    assert "auc_10y 0.812 (SE 0.021)" in filled.text


def test_every_predictor_outcome_and_limit_is_named():
    found = by_number(Known(DEFINITION))
    assert all(feature.title in found["9b"].text for feature in PROGRAMME.features)
    assert all(outcome.title in found["8a"].text for outcome in PROGRAMME.outcomes)
    assert "All is made up." in found["26"].text
    assert "real people" in found["27c"].text
    assert "Age score" in found["3a"].text


def test_exact_numbers_are_refused_in_public(evaluation):
    held = coverage(np.ones(50, bool), nominal=0.9)
    for exact in ({"evaluation": evaluation}, {"coverage": held}):
        with pytest.raises(GemelError, match="GEM633"):
            report(DEFINITION, audience=Audience.PUBLIC, **exact)


def test_an_internal_report_says_that_it_stays(evaluation):
    inside = report(DEFINITION, audience=Audience.INTERNAL, evaluation=evaluation)
    assert "stays at the hospital" in inside.to_markdown().splitlines()[2]
    assert "stays at the hospital" in inside.to_json()["note"]
    public = report(DEFINITION, audience=Audience.PUBLIC)
    assert "stays at the hospital" not in public.to_markdown()
    assert public.to_json()["evaluation"] is None


def test_parts_of_another_programme_are_refused(evaluation):
    other = SimpleNamespace(**{**vars(DEFINITION), "programme": SimpleNamespace(name="other", version="1")})
    with pytest.raises(GemelError, match="GEM633"):
        report(other, audience=Audience.INTERNAL, evaluation=evaluation)


def test_a_report_is_json_and_its_tables_are_whole(evaluation):
    held = coverage(np.arange(200) % 10 > 0, nominal=0.9)
    found = report(
        DEFINITION, audience=Audience.INTERNAL, evaluation=evaluation, claims=CLAIMS, coverage=held
    )
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(document["tripod_ai"]) == 52
    assert document["card"]["claims"][1]["verdict"] == "fails"
    text = found.to_markdown()
    for heading in ("Context of use", "Performance", "Coverage", "Claims", "TRIPOD+AI"):
        assert f"\n## {heading}" in text
    width = None
    for line in text.splitlines():
        columns = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert width is None or columns is None or columns == width
        width = columns


def test_the_risk_is_influence_times_consequence():
    grid = [[model_risk(i, c) for c in LEVELS] for i in LEVELS]
    assert grid == [["low", "low", "medium"], ["low", "medium", "high"], ["medium", "high", "high"]]
    with pytest.raises(ValueError, match="severe"):
        model_risk("low", "severe")


def test_claims_that_hold_are_evidence_and_others_are_not():
    found = {factor.name: factor.evidence for factor in credibility(CONTEXT, claims=CLAIMS).factors}
    assert set(found) == set(FACTORS)
    assert found["model_form"] == "read in a book"
    assert found["numerical_code_verification"].startswith("1 of 2 claims")
    assert found["output_comparison"].startswith("1 of 1 claims")
    assert found["solver_error"] == ""
    assert len(credibility(CONTEXT).missing) == len(FACTORS) - 1


def test_evidence_for_a_factor_that_there_is_none_of_is_refused():
    from dataclasses import replace

    with pytest.raises(ValueError, match="modelform"):
        credibility(replace(CONTEXT, credibility={"modelform": "x"}))


def test_the_card_says_marks_and_sources():
    card = card_fields(DEFINITION, claims=CLAIMS)
    assert card["baselines"] == [
        {"name": "age", "title": "Age score", "endpoint": "death", "source": "Nobody, 1999", "mark": "2"}
    ]
    assert card["context_of_use"]["risk"] == "high"
    assert card["validation"]["grade"] == "generic"
    json.dumps(card, allow_nan=False)


@pytest.mark.parametrize("programme", installed(), ids=lambda p: p.name)
def test_every_installed_programme_can_be_reported(programme):
    public = report(definition_of(programme), audience=Audience.PUBLIC)
    assert programme.title in public.to_markdown()
    json.dumps(public.to_json(), allow_nan=False)
