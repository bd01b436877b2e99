"""Differentially private statistics: tables counted at hospitals, noised, summed, read with honest error bars.

Three pure steps, and a price known before any of them (`gemel.core.statistic_request`):
`tabulate` counts at the node; `describe` counts, adds the noise and is all that a node may release;
`estimates` reads the sum of the hospitals' noisy tables, and needs nothing else.
"""

from __future__ import annotations

from gemel.privacy.statistics.counts import noisy_counts
from gemel.privacy.statistics.estimates import estimates
from gemel.privacy.statistics.release import charges, declared, describe, sum_tables
from gemel.privacy.statistics.tables import tabulate

__all__ = ["charges", "declared", "describe", "estimates", "noisy_counts", "sum_tables", "tabulate"]
