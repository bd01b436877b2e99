"""The part of a study that virtual cohorts are made from: three rounds of noisy counts, and how they share the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from gemel.core.mechanism import Mechanism, noisy_tables

ROUNDS = ("synthesise/1", "synthesise/2", "synthesise/3")
# Round -> the one whose outcome says what it counts.
CHOSEN_BY: Mapping[str, str] = {"synthesise/2": "synthesise/1", "synthesise/3": "synthesise/2"}
_MOST_TABLES, _MOST_SITES = 100_000, 100


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many counts of one noise a round makes, and its share of the precision (1/σ²) of synthesis.

    One count is a table of which one patient changes one cell by one, or a number that one patient changes by one. A round
    whose tables divide its share among them by what earlier rounds showed counts as one: what they cost together is
    known before, whichever they are.
    """

    tables: int
    share: float


class SynthesisPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What hospitals measure for virtual cohorts.

    Attributes:
        levels, scores, tables: Rounds 1, 2 and 3: each column by itself, how strongly columns go together, and the tables of
            the chosen pairs and of the anchors. Their shares sum to 1.
        sites_of_a_person: At how many of the study's hospitals one person may be a patient. Noise is made for that: the
            price in each hospital's ledger is the person's for all of them together.
    """

    levels: Measurement
    scores: Measurement
    tables: Measurement
    sites_of_a_person: int = 2

    def mechanism(self, task: str, whole: float) -> Mechanism:
        """What one of `ROUNDS` costs, when all of synthesis is one Gaussian of multiplier `whole`."""
        measured = (self.levels, self.scores, self.tables)[ROUNDS.index(task)]
        return noisy_tables(whole * math.sqrt(measured.tables / measured.share), measured.tables)


def synthesis_conditions(plan: SynthesisPlan) -> tuple[tuple[bool, str], ...]:
    """What must hold, and what is wrong otherwise."""
    rounds = (plan.levels, plan.scores, plan.tables)
    return (
        (
            all(1 <= measured.tables <= _MOST_TABLES for measured in rounds),
            f"synthesis: a round has 1 to {_MOST_TABLES} tables",
        ),
        (all(measured.share > 0 for measured in rounds), "synthesis: each round needs a share"),
        (
            math.isclose(math.fsum(measured.share for measured in rounds), 1, abs_tol=1e-9),
            "synthesis: the shares must sum to 1",
        ),
        (
            1 <= plan.sites_of_a_person <= _MOST_SITES,
            f"synthesis.sites_of_a_person must be 1 to {_MOST_SITES}, got {plan.sites_of_a_person}",
        ),
    )
