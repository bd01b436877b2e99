"""What the tables of facts say of an export as a whole: people, years, and how the values of each concept lie."""

from __future__ import annotations

from collections.abc import Sequence

from gemel.core.concepts import Concept
from gemel.core.programme import Feature, FeatureKind, Programme
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.quality.report import Distribution, Histogram, People, YearCount

_BINS = 24
# Of these kinds a feature's value is in its concept's unit, so that its reference says something of the concept.
MEASURED_KINDS = frozenset(
    {FeatureKind.LAST, FeatureKind.FIRST, FeatureKind.MEAN, FeatureKind.MIN, FeatureKind.MAX}
)


def describe_people(facts: Facts) -> People:
    """Counts of the tables `person` and `visit`."""
    sexes = facts.run(
        "SELECT coalesce(sex, 'not recorded'), count(*) FROM person GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    [(patients, no_birth, deceased, undated)] = facts.run("""
        SELECT count(*), count(*) FILTER (birth_day IS NULL), count(*) FILTER (deceased),
            count(*) FILTER (deceased AND death_day IS NULL) FROM person""")
    [(visits, visitors)] = facts.run("SELECT count(*), count(DISTINCT patient_id) FROM visit")
    return People(
        patients=patients,
        sex=dict(sexes),
        without_birth_date=no_birth,
        deceased=deceased,
        deceased_without_date=undated,
        without_visit=patients - visitors,
        visits=visits,
    )


def count_years(facts: Facts) -> list[YearCount]:
    """Visits (by their start) and facts by year, without a gap."""
    rows = facts.run("""
        SELECT at_year, CAST(sum(visits) AS BIGINT), CAST(sum(facts) AS BIGINT) FROM (
            SELECT year(start_day) AS at_year, count(*) AS visits, 0 AS facts FROM visit GROUP BY 1
            UNION ALL SELECT year(day), 0, count(*) FROM fact GROUP BY 1
        ) WHERE at_year IS NOT NULL GROUP BY 1 ORDER BY 1""")
    found = {year: YearCount(year, visits, said) for year, visits, said in rows}
    if not found or max(found) - min(found) > 300:
        # A year that cannot be stretches the axis beyond use: then only the years that there are.
        return list(found.values())
    return [found.get(year, YearCount(year, 0, 0)) for year in range(min(found), max(found) + 1)]


def concept_years(facts: Facts) -> dict[str, tuple[int, int]]:
    """First and last year of each concept's facts."""
    rows = facts.run("SELECT concept, year(min(day)), year(max(day)) FROM fact GROUP BY 1")
    return {concept: (first, last) for concept, first, last in rows}


def reference_of(programme: Programme, concept: str) -> Feature | None:
    """The feature whose public numbers say how the values of a concept should lie, if one does."""
    for feature in programme.features:
        if feature.kind in MEASURED_KINDS and feature.concepts == (concept,):
            return feature
    return None


def describe_distributions(facts: Facts, programme: Programme) -> list[Distribution]:
    """A histogram and quantiles of each measured concept that has values."""
    found = []
    for concept in programme.concepts:
        if concept.unit is None:
            continue
        ranks = facts.run(
            """SELECT count(*), quantile_disc(value, [0.005, 0.05, 0.5, 0.95, 0.995]) FROM fact
            WHERE concept = ? AND value IS NOT NULL AND bound IS NULL""",
            [concept.name],
        )
        [(values, quantiles)] = ranks
        if not values:
            continue
        found.append(_describe(facts, concept, reference_of(programme, concept.name), values, quantiles))
    return found


def _describe(
    facts: Facts, concept: Concept, reference: Feature | None, values: int, quantiles: Sequence[float]
) -> Distribution:
    lowest, p5, p50, p95, highest = quantiles
    if reference is not None:
        # The reference is drawn into the picture, however far off the values are.
        lowest = min(lowest, reference.reference_mean - 2 * reference.scale)
        highest = max(highest, reference.reference_mean + 2 * reference.scale)
    width = (highest - lowest) or abs(highest) or 1.0
    low, high = lowest - 0.02 * width, highest + 0.02 * width
    if concept.low is not None:
        low = max(low, min(concept.low, p5))
    if concept.high is not None:
        high = min(high, max(concept.high, p95))
    edges = [low + (high - low) * i / _BINS for i in range(_BINS + 1)]
    [(counts,)] = facts.run(
        f"SELECT {counts_sql(edges, 'value')} FROM fact WHERE concept = ? AND value IS NOT NULL AND bound IS NULL",
        [concept.name],
    )
    return Distribution(
        concept=concept.name,
        title=concept.title,
        unit=concept.unit or "",
        values=values,
        p5=p5,
        p50=p50,
        p95=p95,
        plausible_low=concept.low,
        plausible_high=concept.high,
        reference_mean=None if reference is None else reference.reference_mean,
        reference_scale=None if reference is None else reference.scale,
        histogram=Histogram(edges, counts),
    )


def counts_sql(edges: Sequence[float], column: str) -> str:
    """SQL of the counts of a column between edges, as a list; a value on an edge is in the bin above it.

    What lies outside is counted in the outermost bins.

    >>> counts_sql([0, 1, 2], "v")
    '[count(*) FILTER (v < 1), count(*) FILTER (v >= 1)]'
    """
    inner = [f"{edge!r}" for edge in edges[1:-1]]
    lows = ["", *(f"{column} >= {edge}" for edge in inner)]
    highs = [*(f"{column} < {edge}" for edge in inner), ""]
    conditions = (" AND ".join(filter(None, pair)) or "true" for pair in zip(lows, highs, strict=True))
    return f"[{', '.join(f'count(*) FILTER ({condition})' for condition in conditions)}]"
