"""What a cohort promises to each patient, in numbers and in words, and whether the statement says all that it must."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from scipy import optimize

from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy.accounting import epsilon
from gemel.synthetic.provenance import CohortProvenance, PrivacyStatement, posterior_from_even_odds
from gemel.synthetic.report.findings import Finding, Verdict
from gemel.synthetic.report.measures import NO_LIMIT, Limit, measured, untested
from gemel.synthetic.report.thresholds import MOST_DELTA_OF_ONE_PATIENT, MOST_EPSILON

BLOCK = "statement"
FALSE_POSITIVES = 0.01
# The accountant rounds up by less than this: an ε that it rounded still is the ε that was planned.
_ROUNDED_UP = 1e-5
_GAUSSIAN = (MechanismKind.GAUSSIAN, MechanismKind.DISCRETE_GAUSSIAN)
_LOG_DELTAS = (math.log(1e-6), math.log(0.99))


@dataclass(frozen=True)
class Statement:
    """The promise behind a model, all of it public.

    Attributes:
        tables: Of the tables that the model was fitted to.
        whole: Of these and all else that the study released.
        sites_of_a_person: At how many hospitals one person may be a patient.
        hospitals: How many counted.
        honest_hospitals: How many of them have to be honest: 0 where each one's release is private by itself, None where nobody says.
        record_sha256: Of the signed record of charges: a run's certificate, or a ledger. None where there is none.
        earlier_epsilon: What earlier cohorts of the same patients cost together, at the same δ; None where nobody looked.
    """

    tables: PrivacyStatement
    whole: PrivacyStatement
    sites_of_a_person: int = 1
    hospitals: int = 1
    honest_hospitals: int | None = None
    record_sha256: str | None = None
    earlier_epsilon: float | None = None

    @classmethod
    def of_provenance(
        cls,
        provenance: CohortProvenance,
        *,
        honest_hospitals: int | None = None,
        earlier_epsilon: float | None = None,
    ) -> Statement:
        """Read off a study's provenance (`study_provenance.provenance_of_study`)."""
        return cls(
            provenance.synthesis,
            provenance.whole,
            provenance.sites_of_a_person,
            provenance.sites,
            honest_hospitals,
            provenance.certificate_sha256,
            earlier_epsilon,
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """What a complete statement says, and this one does not."""
        gaps = {
            "how many hospitals must be honest": self.honest_hospitals is None,
            "a signed record of charges": not self.record_sha256,
            "what earlier cohorts of these patients cost": self.earlier_epsilon is None,
            "the mechanisms": not (self.tables.mechanisms and self.whole.mechanisms),
        }
        return tuple(words for words, is_missing in gaps.items() if is_missing)

    @property
    def with_earlier(self) -> float:
        """ε of this and of earlier cohorts, added up: an upper bound."""
        return self.whole.epsilon + (self.earlier_epsilon or 0.0)

    @property
    def rho(self) -> float:
        """The zCDP of the tables: Σ 1 / 2σ², in units of the sensitivity."""
        gaussians = [m for m in self.tables.mechanisms if m.kind in _GAUSSIAN and m.sample_rate == 1]
        return sum(m.count / (2 * m.noise_multiplier**2) for m in gaussians)

    def as_dict(self) -> dict[str, Any]:
        """The statement as JSON values, with its meaning in words."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        document["tables"]["mechanisms"] = [self._counts(m) for m in self.tables.mechanisms]
        return {
            **document,
            "rho": self.rho,
            "composition": "privacy loss distributions of all mechanisms together",
            "epsilon_with_earlier": self.with_earlier,
            "posterior_from_even_odds": posterior_from_even_odds(self.whole.epsilon),
            "true_positives_at_1_percent": most_true_positives(self.whole.mechanisms),
            "words": list(self.words()),
        }

    def words(self) -> Iterator[str]:
        """What it means, for who is not at home with ε."""
        whole, tables = self.whole, self.tables
        yield (
            "Whether or not one person's records were used changes what is released only within a limit, whatever else an "
            "observer knows."
        )
        yield (
            f"An observer who thinks it as likely as not that a certain person is in the data can come to at most "
            f"{posterior_from_even_odds(whole.epsilon):.0%} by all that the study released."
        )
        yield (
            f"Of 100 people who are in, an attacker who accepts one false alarm in 100 who are not finds at most "
            f"{100 * most_true_positives(whole.mechanisms):.1f} by all that the study released, and "
            f"{100 * most_true_positives(tables.mechanisms):.1f} by the cohort's tables alone."
        )
        yield (
            f"The limit may fail with a probability of 1 in {1 / whole.delta:,.0f} (δ). It holds for all records of a {whole.unit} "
            f"of one hospital together ({whole.neighbouring}); that of the cohort's tables also for who is a patient at "
            f"{self.sites_of_a_person} of the {self.hospitals} hospitals."
        )
        if self.honest_hospitals == 0:
            yield "Nobody has to be trusted: each hospital's release is private by itself."
        elif self.honest_hospitals is not None:
            yield f"It holds as long as {self.honest_hospitals} of the hospitals are honest: their noise together is enough."
        if whole.noise != "secure" or tables.noise != "secure":
            yield "It was made with test noise: a known seed removes it. There is no guarantee."

    def _counts(self, mechanism: Mechanism) -> dict[str, Any]:
        """A mechanism of the tables, with its noise as numbers: a person adds one to one cell at each hospital."""
        sites = self.sites_of_a_person
        sensitivity = math.sqrt(sites) if self.honest_hospitals == 0 else float(sites)
        document: dict[str, Any] = msgspec.to_builtins(mechanism)
        return {**document, "sensitivity": sensitivity, "sigma": sensitivity * mechanism.noise_multiplier}


def most_true_positives(
    mechanisms: Sequence[Mechanism], *, false_positives: float = FALSE_POSITIVES
) -> float:
    """The most of those who are in that any attacker finds at this rate of false alarms.

    Every (ε, δ) of the accountant's whole curve bounds it by e^ε times the false alarms, and δ; the least of these bounds is the
    trade-off itself where alarms are few (Dong, Roth & Su, JRSS B 2022, proposition 2.5). Every one holds, so the search need not be exact.
    """

    def bound(log_delta: float) -> float:
        delta = math.exp(log_delta)
        return math.exp(min(epsilon(mechanisms, delta=delta), 50.0)) * false_positives + delta

    found = optimize.minimize_scalar(bound, bounds=_LOG_DELTAS, method="bounded", options={"maxiter": 20})
    return min(1.0, float(found.fun))


def statement_rows(statement: Statement | None, *, source_patients: float | None) -> Iterator[Finding]:
    """The rows of the block; without a statement the one that says so."""
    if statement is None:
        yield untested(BLOCK, "privacy statement", "complete", internal=False)
        return
    whole, tables = statement.whole, statement.tables
    missing = statement.missing
    yield measured(
        BLOCK,
        "parts of the statement that are missing",
        [float(len(missing))],
        Limit(most=0),
        internal=False,
        detail="; ".join(missing),
    )
    limit = Limit(most=MOST_EPSILON + _ROUNDED_UP)
    words = Limit(most=MOST_EPSILON).words
    for measure, value in (
        ("ε of all that the study released", whole.epsilon),
        ("ε together with earlier cohorts of these patients", statement.with_earlier),
    ):
        verdict = limit.verdict(value)
        yield Finding(BLOCK, measure, value, None, None, None, words, verdict, internal=False)
    if source_patients is None:
        yield untested(BLOCK, "δ times the number of patients", "≤ 0.1", internal=False)
    else:
        yield measured(
            BLOCK,
            "δ times the number of patients",
            [whole.delta * float(f"{source_patients:.2g}")],
            Limit(most=MOST_DELTA_OF_ONE_PATIENT),
            internal=False,
            detail="the number is an estimate from noisy tables",
        )
    yield _recomputed(whole, tables)
    secure = whole.noise == tables.noise == "secure"
    yield Finding(
        BLOCK,
        "noise from the operating system's secure source",
        None,
        None,
        None,
        None,
        "yes",
        Verdict.PASS if secure else Verdict.FAIL,
        internal=False,
    )
    for measure, value in (
        ("posterior from even odds, at most", posterior_from_even_odds(whole.epsilon)),
        (
            "true positives at 1 % false ones, at most: all that was released",
            most_true_positives(whole.mechanisms),
        ),
        ("true positives at 1 % false ones, at most: the tables", most_true_positives(tables.mechanisms)),
    ):
        yield measured(BLOCK, measure, [value], NO_LIMIT, internal=False)


def _recomputed(*statements: PrivacyStatement) -> Finding:
    """By how much a stated ε is below what its mechanisms cost."""
    below = max(epsilon(s.mechanisms, delta=s.delta) - s.epsilon for s in statements)
    return measured(
        BLOCK,
        "ε stated below what the mechanisms cost, composed again",
        [max(0.0, below)],
        Limit(most=_ROUNDED_UP),
        internal=False,
    )
