"""Where the verdicts of a report draw the line, in one place.

Sources: the evaluation standard of `docs/virtual_cohort_report.md`; none was chosen by what our own cohorts reach, and none is
lowered to pass.
"""

from __future__ import annotations

# Statement.
MOST_EPSILON = 3.0
MOST_DELTA_OF_ONE_PATIENT = 0.1  # δ times the number of patients
# Attacks of each kind: with fewer, intervals are wider than the thresholds.
FEWEST_ATTACKS = 2000
# Distances between distributions, over those of as many hold-out patients.
MOST_PAIR_RATIO = 1.1
MOST_TRIPLE_RATIO = 1.25
MOST_RANK_ERROR = 0.05
# Trained on virtual over trained on real, both tested on hold-out patients.
LEAST_PREDICTION_RATIO = 0.97
LEAST_SLOPE, MOST_SLOPE = 0.8, 1.25
# Survival: largest difference of the curves, relative difference of the mean times.
MOST_CURVE_DIFFERENCE = 0.02
MOST_MEAN_TIME_DIFFERENCE = 0.05
# Cox: mean absolute difference of coefficients per standard deviation, and what intervals share of the narrower one.
MOST_COEFFICIENT_DIFFERENCE = 0.04
LEAST_INTERVAL_OVERLAP = 0.5
# Groups of patients.
FEWEST_IN_GROUP = 100
LEAST_GROUP_RATIO = 0.9
MOST_PREVALENCE_ERROR = 0.20
# Smoke test.
NEIGHBOUR_SHARE, NEIGHBOUR_TOLERANCE = 0.5, 0.03
