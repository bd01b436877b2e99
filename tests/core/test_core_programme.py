import msgspec
import pytest
from made_up_hospital import DEATH, concept, feature, programme

from gemel.core.programme import (
    Comparison,
    Criterion,
    FeatureKind,
    IndexEvent,
    IndexKind,
    Missing,
    Outcome,
    OutcomeKind,
    Programme,
    Target,
    TargetKind,
    Threshold,
)
from gemel.core.programme_check import check_programme
from gemel.twins.installed import installed

HIGH = Threshold(comparison=Comparison.ABOVE, value=150)


def target(kind, *concepts, **more):
    return Target(name="t", title="", kind=TargetKind(kind), concepts=concepts, **{"unit": "mmol/L", **more})


def outcome(kind, *concepts, **more):
    return Outcome(name="o", title="", kind=OutcomeKind(kind), concepts=concepts, **more)


def criterion(*concepts, **more):
    return Criterion(**{"name": "c", "reason": "", **more}, concepts=concepts)


def cohort(**parts):
    return {"cohort": parts}


def index(kind, *concepts, **more):
    return cohort(index=IndexEvent(kind=IndexKind(kind), concepts=concepts, **more))


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_the_installed_programmes_have_no_problem_and_survive_json(programme):
    assert check_programme(programme) == ()
    assert msgspec.json.decode(msgspec.json.encode(programme), type=Programme) == programme


def test_a_programme_with_every_part_has_no_problem_and_survives_json():
    kinds = [k for k in FeatureKind if k not in (FeatureKind.AGE, FeatureKind.MALE)]
    made = programme(
        feature("age", "age"),
        *(feature(kind, kind, "sodium", window_days=30) for kind in kinds),
        feature("seen", "present", "diabetes", from_days=-30, to_days=-1, missing=Missing.ZERO),
        cohort={
            "index": IndexEvent(kind=IndexKind.MEASUREMENT, concepts=("sodium",), threshold=HIGH),
            "required": (criterion("statin"),),
            "exclusions": (criterion("sodium", name="d", threshold=HIGH, to_days=None),),
        },
        outcomes=(DEATH, outcome("first_measurement", "sodium", threshold=HIGH)),
        targets=(
            target("ordinal", "sodium", at_days=5, levels=(1, 2)),
            msgspec.structs.replace(target("series", "sodium"), name="u"),
            msgspec.structs.replace(target("death", at_days=5), name="v"),
        ),
    )
    assert msgspec.json.decode(msgspec.json.encode(made), type=Programme) == made
    assert made.series_names == ("series", "u")
    assert made.target_names == ("t", "v")
    assert "series" not in made.feature_names
    assert len(made.feature_names) == len(made.features) - 1


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: programme(feature("x", "age"), feature("x", "male")), "'x' is declared twice"),
        (lambda: programme(feature("t", "age"), targets=(target("death", at_days=1),)), "'t' is declared twice"),
        (lambda: programme(concepts=(concept("a"), concept("a"))), "concept 'a' is declared twice"),
        (lambda: programme(outcomes=(DEATH, DEATH)), "outcome 'death' is declared twice"),
        (lambda: programme(outcomes=(outcome("first_diagnosis", "stroke"),)), "death is the first outcome"),
        (lambda: programme(outcomes=(DEATH, outcome("death"))), "death is the first outcome"),
        (lambda: programme(outcomes=(DEATH, outcome("first_diagnosis", "sodium"))), "sodium is measured"),
        (lambda: programme(outcomes=(DEATH, outcome("first_measurement", "stroke"))), "stroke is not measured"),
        (lambda: programme(outcomes=(DEATH, outcome("first_diagnosis"))), "no concepts"),
        (lambda: programme(outcomes=(DEATH, outcome("first_treatment", "x"))), "no concept x"),
        (lambda: programme(outcomes=(DEATH, outcome("first_diagnosis", "stroke", threshold=HIGH))), "only a measurement"),
        (lambda: programme(feature("x", "last", "lithium")), "no concept lithium"),
        (lambda: programme(feature("x", "last")), "no concepts"),
        (lambda: programme(feature("x", "age", "sodium")), "age takes no concepts"),
        (lambda: programme(feature("x", "mean", "stroke")), "stroke is not measured"),
        (lambda: programme(feature("x", "last", "troponin")), "troponin is in ng/L, not in mmol/L"),
        (lambda: programme(feature("x", "count", "sodium", window_days=1, from_days=-1)), "both given"),
        (lambda: programme(feature("x", "count", "sodium", from_days=-1, to_days=-2)), "not ordered"),
        (lambda: programme(feature("x", "count", "sodium", to_days=1)), "after the index date"),
        (lambda: programme(feature("x", "last", "sodium", missing=Missing.ZERO)), "a missing last is not 0"),
        (lambda: programme(feature("x", "last", "sodium", bin_edges=(0, 10, 10, 1000))), "do not increase"),
        (lambda: programme(feature("x", "last", "sodium", bin_edges=(0, 10, 999))), "from low to high"),
        (lambda: programme(feature("x", "last", "sodium", low=1000)), "low < high"),
        (lambda: programme(feature("x", "last", "sodium", scale=0)), "scale > 0"),
        (lambda: programme(targets=(target("value_at", "sodium"),)), "at_days is at least 1"),
        (lambda: programme(targets=(target("value_at", "sodium", at_days=5, tolerance_days=5),)), "reaches back"),
        (lambda: programme(targets=(target("value_at", "troponin", at_days=5),)), "not in mmol/L"),
        (lambda: programme(targets=(target("ordinal", "sodium", at_days=5),)), "levels"),
        (lambda: programme(targets=(target("ordinal", "sodium", at_days=5, levels=(2, 1)),)), "strictly increasing"),
        (lambda: programme(targets=(target("binary", "stroke", at_days=5, levels=(1,)),)), "levels"),
        (lambda: programme(targets=(target("binary", at_days=5),)), "no concepts"),
        (lambda: programme(targets=(target("binary", "stroke", at_days=5, threshold=HIGH),)), "stroke is not measured"),
        (lambda: programme(targets=(target("death", "stroke", at_days=5),)), "death takes no concepts"),
        (lambda: programme(targets=(target("series", "sodium", from_days=0),)), "before the day after"),
        (lambda: programme(targets=(target("series", "sodium", from_days=9, to_days=8),)), "not ordered"),
        (lambda: programme(cohort={"minimum_age_years": 101}), "age bounds"),
        (lambda: programme(cohort={"minimum_look_back_days": -1}), "at least 0 days"),
        (lambda: programme(**index("visit", "stroke")), "a visit has no concepts"),
        (lambda: programme(**index("diagnosis")), "no concepts"),
        (lambda: programme(**index("diagnosis", "sodium")), "sodium is measured"),
        (lambda: programme(**index("diagnosis", "stroke", threshold=HIGH)), "only a measurement has a threshold"),
        (lambda: programme(**cohort(required=(criterion("stroke"),), exclusions=(criterion("stroke"),))), "declared twice"),
        (lambda: programme(**cohort(required=(criterion("stroke", name="no birth date"),))), "declared twice"),
        (lambda: programme(**cohort(required=(criterion("stroke", from_days=1),))), "not ordered"),
        (lambda: programme(**cohort(required=(criterion("stroke", minimum_count=0),))), "minimum_count"),
        (lambda: programme(**cohort(required=(criterion("stroke", threshold=HIGH),))), "stroke is not measured"),
        (lambda: programme(feature("x", "mean", "sodium"), concepts=(concept("sodium", "mmol/L"),)), "needs the bounds of sodium"),
        (lambda: programme(horizon_years=0), "horizon_years"),
        (lambda: programme(outcomes=(DEATH, outcome("first_measurement", "sodium",
            threshold=Threshold(comparison=Comparison.ABOVE, value=float("nan"))))), "finite"),
    ],
)  # fmt: skip
def test_a_programme_whose_parts_do_not_fit_cannot_be_made(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()


def test_a_document_whose_parts_do_not_fit_is_refused_when_it_is_read():
    document = msgspec.to_builtins(programme())
    document["outcomes"] = []
    document["horizon_years"] = -1
    with pytest.raises(msgspec.ValidationError, match="horizon_years"):
        msgspec.convert(document, Programme)
