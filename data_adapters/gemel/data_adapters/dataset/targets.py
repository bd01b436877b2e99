"""Outcomes and targets: SQL for what happened to the members after the index date, and when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT
from gemel.core.programme import Outcome, OutcomeKind, Target, TargetKind
from gemel.data_adapters.dataset.conditions import meets, number, of_concepts


def outcome_query(outcome: Outcome) -> str:
    """SQL for (position, days, event) of every member: days to the outcome, or to the end of follow-up or death."""
    if outcome.kind is OutcomeKind.DEATH:
        return (
            f"SELECT position, follow_days AS days, "
            f"CASE WHEN death_day IS NULL THEN {CENSORED} ELSE {OCCURRED} END AS event FROM member"
        )
    value = " AND value IS NOT NULL" if outcome.kind is OutcomeKind.FIRST_MEASUREMENT else ""
    later = " AND day > 0" if outcome.kind is OutcomeKind.NEXT_DIAGNOSIS else ""
    return f"""
        WITH first_event AS (
            SELECT position, min(day) AS day FROM record
            WHERE {of_concepts(outcome.concepts)}{value} AND {meets(outcome.threshold)}{later} GROUP BY position
        )
        SELECT position,
            CASE WHEN day <= 0 THEN 0 WHEN day <= follow_days THEN day ELSE follow_days END AS days,
            CASE WHEN day <= 0 THEN {PREVALENT} WHEN day <= follow_days THEN {OCCURRED} ELSE {CENSORED} END AS event
        FROM member LEFT JOIN first_event USING (position)"""


def target_query(target: Target) -> str:
    """SQL for (position, value) of a target that is one number; members without a row, or with NULL, have none."""
    if target.kind is TargetKind.SERIES:
        raise ValueError(f"{target.name} is a series, not a column")
    at = target.at_days or 0
    if target.kind is TargetKind.DEATH:
        return (
            f"SELECT position, CASE WHEN death_day IS NOT NULL AND follow_days <= {at:d} THEN 1 "
            f"WHEN follow_days >= {at:d} THEN 0 END AS value FROM member"
        )
    if target.kind is TargetKind.BINARY:
        return _binary_query(target, at)
    nearest = f"{{'distance': abs(day - {at:d}), 'moment': moment, 'number': {number(target.bounds)}}}"
    return (
        f"SELECT position, min({nearest}).number AS value FROM record "
        f"WHERE {of_concepts(target.concepts)} AND day > 0 AND abs(day - {at:d}) <= {target.tolerance_days:d} "
        f"AND {number(target.bounds)} IS NOT NULL GROUP BY position"
    )


def _binary_query(target: Target, at: int) -> str:
    prevalent = "WHEN before THEN NULL " if target.incident else ""
    return f"""
        WITH event AS (
            SELECT position, min(day) FILTER (day > 0) AS first_day, bool_or(day <= 0) AS before FROM record
            WHERE {of_concepts(target.concepts)} AND {meets(target.threshold)} GROUP BY position
        )
        SELECT position, CASE {prevalent}WHEN first_day <= least({at:d}, follow_days) THEN 1
            WHEN follow_days >= {at:d} OR death_day IS NOT NULL THEN 0 END AS value
        FROM member LEFT JOIN event USING (position)"""


def target_numbers(target: Target, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is kept of a target's values: for an ordinal target the level that each reaches."""
    if target.kind is not TargetKind.ORDINAL:
        return values
    levels = np.searchsorted(np.array(target.levels), values, side="right").astype(np.float64)
    levels[np.isnan(values)] = np.nan
    return levels
