"""The context of use and its risk, and what evidence there is for believing the twin in it: the frame of ASME V&V 40 (2018).

The standard asks for risk = model influence x decision consequence, and for evidence on thirteen credibility factors as strong as that
risk. It fixes no scale and no matrix; the three steps here are our convention. How the factors apply to models of single patients:
Galappaththige et al., PLoS Comput Biol 2022;18:e1010541.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gemel.twins.claims import CheckedClaim, Gate, Verdict

if TYPE_CHECKING:
    from gemel.twins.definition import ContextOfUse

LEVELS = ("low", "medium", "high")
FACTORS = {
    "software_quality_assurance": "Code verification: software quality assurance",
    "numerical_code_verification": "Code verification: numerical code verification",
    "discretisation_error": "Calculation verification: discretisation error",
    "solver_error": "Calculation verification: numerical solver error",
    "use_error": "Calculation verification: use error",
    "model_form": "Validation, model: model form",
    "model_inputs": "Validation, model: model inputs",
    "comparator_samples": "Validation, comparator: test samples",
    "comparator_conditions": "Validation, comparator: test conditions",
    "input_equivalence": "Validation, assessment: equivalence of inputs",
    "output_comparison": "Validation, assessment: output comparison",
    "relevance_of_quantities": "Applicability: relevance of the quantities of interest",
    "relevance_of_validation": "Applicability: relevance of the validation to the context of use",
}
_RISK = {1: "low", 2: "low", 3: "medium", 4: "medium", 6: "high", 9: "high"}


@dataclass(frozen=True)
class Factor:
    """One credibility factor; `evidence` is empty where there is none."""

    name: str
    title: str
    evidence: str


@dataclass(frozen=True)
class Credibility:
    """See the module; `risk` is low, medium or high."""

    influence: str
    consequence: str
    risk: str
    factors: tuple[Factor, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The factors without evidence."""
        return tuple(factor.title for factor in self.factors if not factor.evidence)


def model_risk(influence: str, consequence: str) -> str:
    """Low, medium or high: the product of the two, each 1 to 3: to 2 low, to 4 medium, above high. ValueError for another word.

    >>> model_risk("low", "high"), model_risk("medium", "high")
    ('medium', 'high')
    """
    for word in (influence, consequence):
        if word not in LEVELS:
            raise ValueError(f"{word} is none of {', '.join(LEVELS)}")
    return _RISK[(LEVELS.index(influence) + 1) * (LEVELS.index(consequence) + 1)]


def credibility(context: ContextOfUse, *, claims: Sequence[CheckedClaim] = ()) -> Credibility:
    """Of a context of use, with the claims that were computed as evidence beside what the programme names.

    ValueError for influence, consequence or a factor that V&V 40 does not know: a misspelt factor must not pass for evidence.
    """
    unknown = sorted(set(context.credibility) - set(FACTORS))
    if unknown:
        raise ValueError(f"no credibility factors: {', '.join(unknown)}")
    computed = {
        "numerical_code_verification": _held(claims, Gate.G0, "published numbers"),
        "output_comparison": _held(claims, Gate.G1, "facts of outside data"),
    }
    factors = [
        Factor(name, title, _joined(context.credibility.get(name, ""), computed.get(name, "")))
        for name, title in FACTORS.items()
    ]
    risk = model_risk(context.influence, context.consequence)
    return Credibility(context.influence, context.consequence, risk, tuple(factors))


def _held(claims: Sequence[CheckedClaim], gate: Gate, of: str) -> str:
    """How many claims of a gate hold; empty when none does."""
    mine = [checked for checked in claims if checked.claim.gate is gate]
    held = [checked for checked in mine if checked.verdict is Verdict.HOLDS]
    return f"{len(held)} of {len(mine)} claims on {of} hold" if held else ""


def _joined(*parts: str) -> str:
    return "; ".join(part.strip().rstrip(".") for part in parts if part.strip())
