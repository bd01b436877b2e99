"""How an export's values lie against a programme's public reference, in numbers and in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from gemel.core.concepts import Concept
from gemel.core.programme import Feature, FeatureKind, Programme
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.units import IDENTITY, find_conversion
from gemel.data_adapters.quality.distributions import MEASURED_KINDS, counts_sql, reference_of
from gemel.data_adapters.quality.report import Drift, Histogram, UnitQuestion

# Cohen's small and medium effect (Statistical Power Analysis for the Behavioral Sciences, 2nd ed. 1988), as a
# convention: the difference is divided by the programme's scale, not by a standard deviation of these patients.
DIFFERS = 0.2
DIFFERS_STRONGLY = 0.5
# A convention of this report: of fewer patients a mean says too little to call it different.
FEWEST_PATIENTS = 20
# A convention: this share outside the range that the twin clips to is worth a look.
MUCH_OUTSIDE = 0.05
THRESHOLDS = (
    f"The difference is (mean here - reference mean) / the programme's scale. Up to {DIFFERS:g} it is called alike, "
    f"above {DIFFERS_STRONGLY:g} it differs strongly: Cohen's small and medium effect (1988), a convention, no test "
    f"of significance. Of fewer than {FEWEST_PATIENTS} patients nothing is said (a convention of this report)."
)

_AGGREGATES = {
    FeatureKind.LAST: 'arg_max(value, struct_pack(a := "at", v := value))',
    FeatureKind.FIRST: 'arg_min(value, struct_pack(a := "at", v := value))',
    FeatureKind.MEAN: "favg(value)",
    FeatureKind.MIN: "min(value)",
    FeatureKind.MAX: "max(value)",
}
# Units in which hospitals keep what others keep in the concept's; conversions come from `find_conversion` alone.
_OTHER_UNITS = (
    *("mg/dL", "g/dL", "g/L", "mg/L", "ug/L", "ng/mL", "mmol/L", "umol/L", "nmol/L", "pmol/L"),
    *("kPa", "mm[Hg]", "kg", "g", "[lb_av]", "m", "cm", "[in_i]", "Cel", "[degF]"),
    *("10*9/L", "10*6/L", "/uL", "%", "mmol/mol"),
)


def find_drift(facts: Facts, programme: Programme) -> list[Drift]:
    """Each feature that is a value of one measured concept, one value a patient, at the ages that the cohort takes.

    A data set takes the values at each patient's index date, so its own card is the last word. Ages, counts and
    histories are not compared: the programme declares no reference of theirs that would say how common they are.
    """
    found = []
    ages = (programme.cohort.minimum_age_years, programme.cohort.maximum_age_years + 1)
    for feature in programme.features:
        if feature.kind not in MEASURED_KINDS or len(feature.concepts) != 1:
            continue
        edges = feature.bin_edges
        [row] = facts.run(
            f"""SELECT count(*), favg(least(greatest(v, ?), ?)), quantile_disc(v, 0.5),
                count(*) FILTER (v < ?), count(*) FILTER (v > ?),
                {counts_sql(edges, "v") if len(edges) > 1 else "NULL"}
            FROM (SELECT {_AGGREGATES[feature.kind]} AS v FROM fact JOIN person USING (patient_id)
                WHERE concept = ? AND value IS NOT NULL AND bound IS NULL
                    AND date_diff('day', birth_day, day) / 365.25 BETWEEN ? AND ?
                GROUP BY patient_id)""",
            [*[feature.low, feature.high] * 2, feature.concepts[0], *ages],
        )
        found.append(_drift(feature, *row))
    return found


def _drift(
    feature: Feature,
    patients: int,
    mean: float | None,
    middle: float | None,
    below: int,
    above: int,
    counts: list[int] | None,
) -> Drift:
    smd = (mean - feature.reference_mean) / feature.scale if mean is not None else None
    outside = (below + above) / max(patients, 1)
    verdict, explanation = _judge(feature, patients, mean, smd, outside)
    return Drift(
        feature=feature.name,
        concept=feature.concepts[0],
        title=feature.title,
        unit=feature.unit,
        patients=patients,
        reference_mean=feature.reference_mean,
        scale=feature.scale,
        low=feature.low,
        high=feature.high,
        mean=None if mean is None else round(mean, 6),
        median=middle,
        smd=None if smd is None or patients < FEWEST_PATIENTS else round(smd, 4),
        share_below=below / max(patients, 1),
        share_above=above / max(patients, 1),
        bins=Histogram(list(map(float, feature.bin_edges)), counts) if counts is not None else None,
        verdict=verdict,
        explanation=explanation,
    )


def _judge(
    feature: Feature, patients: int, mean: float | None, smd: float | None, outside: float
) -> tuple[str, str]:
    """The verdict and what it rests on, in a sentence."""
    if mean is None or smd is None:
        return "no values", "No patient of the cohort's ages has a value."
    if patients < FEWEST_PATIENTS:
        return (
            "too few patients",
            f"{patients} patients have a value; fewer than {FEWEST_PATIENTS} say too little.",
        )
    size = abs(smd)
    verdict = "alike" if size <= DIFFERS else "differs" if size <= DIFFERS_STRONGLY else "differs strongly"
    direction = "above" if smd > 0 else "below"
    sentence = (
        f"The mean {mean:.4g} {feature.unit} lies {size:.2f} scales {direction} the reference "
        f"{feature.reference_mean:g} {feature.unit}"
    )
    limit = {
        "alike": f"at most {DIFFERS:g}",
        "differs": f"more than {DIFFERS:g}",
        "differs strongly": f"more than {DIFFERS_STRONGLY:g}",
    }[verdict]
    sentence += f" ({limit})."
    if outside > MUCH_OUTSIDE:
        sentence += f" {outside:.1%} of the patients lie outside {feature.low:g} to {feature.high:g}, where the twin clips."
    return verdict, sentence


def ask_about_units(
    programme: Programme, drift: Iterable[Drift], implausible_examples: Iterable[str]
) -> list[UnitQuestion]:
    """Questions where values far from the reference would lie near it if they were in another unit.

    Far is more than two of the programme's scales, near is within one: conventions. Asked of the values that were
    used, and of those that were left out as implausible (`implausible_examples`, as "concept = value unit").
    """
    questions = []
    for one in drift:
        if one.median is not None and one.patients >= FEWEST_PATIENTS:
            questions += _ask(programme, one.concept, one.median, "the median of the patients")
    left_out: dict[str, list[float]] = {}
    for example in implausible_examples:
        concept, _, value = example.partition(" = ")
        left_out.setdefault(concept, []).append(float(value.split(" ")[0]))
    for concept, values in left_out.items():
        questions += _ask(programme, concept, median(values), "a typical implausible value")
    return list({(q.concept, q.other_unit): q for q in questions}.values())


def _ask(programme: Programme, name: str, value: float, what: str) -> list[UnitQuestion]:
    concept, feature = programme.concept(name), reference_of(programme, name)
    if feature is None or abs(value - feature.reference_mean) <= 2 * feature.scale:
        return []
    fitting = []
    for unit, converted in _in_other_units(concept, value):
        off = abs(converted - feature.reference_mean) / feature.scale
        if off <= 1:
            fitting.append((off, unit, converted))
    return [
        UnitQuestion(
            concept=name,
            recorded_unit=concept.unit or "",
            other_unit=unit,
            question=(
                f"{concept.title}: {what} is {value:.4g} {concept.unit}, far from the reference "
                f"{feature.reference_mean:g}. Read as {unit} it would be {converted:.4g} {concept.unit}. Are values "
                f"in {unit} recorded with the unit {concept.unit}? Nothing was changed; only the source can say."
            ),
        )
        for _, unit, converted in sorted(fitting)[:1]
    ]


def _in_other_units(concept: Concept, value: float) -> list[tuple[str, float]]:
    found = []
    for unit in _OTHER_UNITS:
        conversion = find_conversion(unit, concept)
        if conversion is not None and conversion != IDENTITY:
            found.append((unit, conversion(value)))
    return found
