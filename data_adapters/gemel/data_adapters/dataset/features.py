"""Features: SQL that takes each from the members' records, so that no order of rows can change a bit of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gemel.core.programme import Bounds, Feature, FeatureKind, Programme, Target
from gemel.data_adapters.dataset.conditions import double, number, of_concepts, within

DAYS_PER_YEAR = 365.25
_SECONDS_PER_YEAR = DAYS_PER_YEAR * 86_400
_SUM_BITS = 40


def feature_query(programme: Programme, feature: Feature) -> str:
    """SQL for (position, value); patients without a row have no value.

    Reads the tables `member` and `record` that `select_cohort` makes.
    """
    match feature.kind:
        case FeatureKind.AGE:
            return f"SELECT position, (index_day - birth_day) / {DAYS_PER_YEAR} AS value FROM member"
        case FeatureKind.MALE:
            return (
                "SELECT position, CASE sex WHEN 'male' THEN 1.0 ELSE 0.0 END AS value FROM member "
                "WHERE sex IN ('male', 'female')"
            )
        case FeatureKind.PRESENT:
            # What lasts (a treatment with an end) is present on each of its days.
            window = within(feature.start_days, feature.to_days, last="last_day")
            return (
                f"SELECT DISTINCT position, 1.0 AS value FROM record "
                f"WHERE {of_concepts(feature.concepts)} AND {window}"
            )
        case FeatureKind.COUNT:
            return _counted(feature, "count(*)")
        case FeatureKind.TIME_SINCE:
            return _counted(feature, "-max(day)")
        case FeatureKind.SERIES:
            raise ValueError(f"{feature.name} is a series, not a column")
        case _:
            return _measured(feature, programme)


def series_query(of: Feature | Target) -> str:
    """SQL for (position, day, value) of a series, in the order of position, day and value.

    `day` counts from the index date, with the hour as a fraction; both are what is left of them in float32.
    """
    start = of.start_days if isinstance(of, Feature) else of.from_days
    return (
        f"SELECT position, CAST(epoch_us(moment - CAST(index_day AS TIMESTAMP)) / 86400000000 AS FLOAT) AS day, "
        f"CAST(number AS FLOAT) AS value FROM ({_numbers(of.concepts, of.bounds, start, of.to_days)}) "
        "JOIN member USING (position) ORDER BY position, day, value"
    )


def _measured(feature: Feature, programme: Programme) -> str:
    numbers = _numbers(feature.concepts, feature.bounds, feature.start_days, feature.to_days)
    if feature.kind not in (FeatureKind.MEAN, FeatureKind.SLOPE):
        aggregate = {
            FeatureKind.LAST: "max({'moment': moment, 'number': number}).number",
            FeatureKind.FIRST: "min({'moment': moment, 'number': number}).number",
            FeatureKind.MIN: "min(number)",
            FeatureKind.MAX: "max(number)",
        }[feature.kind]
        return f"SELECT position, {aggregate} AS value FROM ({numbers}) GROUP BY position"
    # Sums are of whole numbers: they are exact, whatever the order of rows, the engine or the processor.
    bits = _bits(programme, feature)
    wholes = (
        f"SELECT position, CAST(round(number * {double(math.ldexp(1.0, bits))}) AS HUGEINT) AS y, "
        f"CAST(floor(epoch(moment)) AS HUGEINT) AS x FROM ({numbers})"
    )
    if feature.kind is FeatureKind.MEAN:
        mean = f"CAST(sum(y) AS DOUBLE) / count(*) * {double(math.ldexp(1.0, -bits))}"
        return f"SELECT position, {mean} AS value FROM ({wholes}) GROUP BY position"
    per_year = double(math.ldexp(_SECONDS_PER_YEAR, -bits))
    return (
        f"SELECT position, CAST(n * xy - sx * sy AS DOUBLE) / CAST(n * xx - sx * sx AS DOUBLE) * {per_year} AS value "
        "FROM (SELECT position, CAST(count(*) AS HUGEINT) AS n, sum(x) AS sx, sum(y) AS sy, sum(x * y) AS xy, "
        f"sum(x * x) AS xx FROM ({wholes}) GROUP BY position HAVING count(DISTINCT x) > 1)"
    )


def _counted(feature: Feature, aggregate: str) -> str:
    return (
        f"SELECT position, {aggregate} AS value FROM record WHERE {of_concepts(feature.concepts)} "
        f"AND {within(feature.start_days, feature.to_days)} GROUP BY position"
    )


def _numbers(concepts: Sequence[str], bounds: Bounds, start_days: int | None, end_days: int | None) -> str:
    """SQL for the usable values (position, day, moment, number) of some concepts within a window."""
    return (
        f"SELECT position, day, moment, {number(bounds)} AS number FROM record "
        f"WHERE {of_concepts(concepts)} AND {within(start_days, end_days)} AND number IS NOT NULL"
    )


def _bits(programme: Programme, feature: Feature) -> int:
    """How many binary places make values of a concept whole: 40 bits up to its largest plausible value."""
    concepts = [programme.concept(name) for name in feature.concepts]
    largest = max(max(abs(concept.low or 0), abs(concept.high or 0)) for concept in concepts)
    return _SUM_BITS - math.frexp(largest)[1]
