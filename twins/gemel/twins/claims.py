"""What a programme claims of the world outside it: a number, its source, how near is near enough, and how it is computed.

Claims run as tests. A number from memory (mark U) may support no claim alone: such a claim says so and counts for no gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gemel.twins.parameters import Mark


class Gate(StrEnum):
    """What a claim is evidence of."""

    G0 = "G0"  # published numbers reproduced
    G1 = "G1"  # beaten or matched on data nobody here made
    G2 = "G2"  # the whole walk: FHIR -> federated private training -> prediction -> what-if -> virtual cohort


class Grade(StrEnum):
    """How far a twin is validated; only ever as far as its claims go."""

    GENERIC = "generic"  # prediction inside the range of a reference population
    POPULATION = "population"  # close to a central property of a population
    SUBJECT = "subject"  # close to what is measured in each individual


@dataclass(frozen=True)
class Claim:
    """One outside fact that the programme is held to.

    Attributes:
        statement: A sentence that a clinician can read.
        value: The outside number. low, high: between what the computed number has to lie.
        source: Where the outside number was read.
        mark: How far it was checked.
        compute: Gives the number from the folder of open data (unused by most).
        needs: The file below that folder without which the claim is skipped; empty for none.
    """

    name: str
    statement: str
    gate: Gate
    value: float
    low: float
    high: float
    unit: str
    source: str
    mark: Mark
    compute: Callable[[Path], float]
    needs: str = ""


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    SKIPPED = "skipped"  # its data are not here
    UNSUPPORTED = "unsupported"  # it holds, but against a number that nobody verified


@dataclass(frozen=True)
class CheckedClaim:
    """A claim, what was computed, and the verdict."""

    claim: Claim
    computed: float | None
    verdict: Verdict


def check_claims(claims: Sequence[Claim], *, data: Path | None = None) -> tuple[CheckedClaim, ...]:
    """Compute every claim; those whose data are not below `data` are skipped."""
    return tuple(_checked(claim, data) for claim in claims)


def _checked(claim: Claim, data: Path | None) -> CheckedClaim:
    if claim.needs and (data is None or not (data / claim.needs).exists()):
        return CheckedClaim(claim, None, Verdict.SKIPPED)
    computed = float(claim.compute(data if data is not None else Path()))
    # Written so that a number which is none fails.
    if not claim.low <= computed <= claim.high:
        return CheckedClaim(claim, computed, Verdict.FAILS)
    verdict = Verdict.UNSUPPORTED if claim.mark is Mark.UNVERIFIED else Verdict.HOLDS
    return CheckedClaim(claim, computed, verdict)
