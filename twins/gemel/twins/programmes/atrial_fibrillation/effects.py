"""What anticoagulants do, from randomised trials: ratios of rates, with their 95 % intervals. Not fitted here."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.twins.parameters import Mark


@dataclass(frozen=True)
class Effect:
    """A ratio of rates with its interval."""

    value: float
    low: float
    high: float
    source: str
    mark: Mark


_EHRA = "EHRA practical guide 2018, doi 10.1093/europace/euy046, table 7"

# Any stroke, adjusted-dose warfarin against placebo or nothing: six trials, 2,900 people.
WARFARIN_STROKE = Effect(
    0.36, 0.26, 0.51, f"Hart RG et al., Ann Intern Med 2007;146:857; as in {_EHRA}", Mark.SECOND_HAND
)
# Stroke or systemic embolism, direct anticoagulants against warfarin: four trials, 58,541 people.
DIRECT_OVER_WARFARIN_STROKE = Effect(
    0.81, 0.73, 0.91, f"Ruff CT et al., Lancet 2014;383:955; as in {_EHRA}", Mark.SECOND_HAND
)
# Major bleeding, standard dose against warfarin: 71,683 people.
DIRECT_OVER_WARFARIN_BLEEDING = Effect(
    0.86,
    0.74,
    1.01,
    "Carnicelli AP et al., Circulation 2022;145:242; as in PMC10672610, table 2",
    Mark.SECOND_HAND,
)
# Major bleeding, warfarin against placebo: odds ratio 1.90 (0.89-4.04) of the early trials, here the other way round.
NOTHING_OVER_WARFARIN_BLEEDING = Effect(
    0.53, 0.25, 1.12, "Segal JB et al., J Gen Intern Med 2000;15:56 (PMC1495320)", Mark.VERIFIED
)
