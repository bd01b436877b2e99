"""The release gate: a cohort leaves with a report that passed, or with the name of who released it all the same.

What it decides on is the internal report: that it was passed, which rows were not, and who answers for it are all that leave with
the cohort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.synthetic.report.findings import Verdict
from gemel.synthetic.report.thresholds import FEWEST_ATTACKS

FORMAT = "gemel virtual cohort report 1"
# Blocks without which nobody knows enough of a cohort: each has a row that decides, and all of those pass.
REQUIRED = (
    "statement",
    "mechanism",
    "membership",
    "singling out",
    "linkability",
    "inference",
    "evidence",
    "survival",
    "pairs",
)
# Rows that a refusal names.
_NAMED = 3


class Outcome(StrEnum):
    """How a cohort came to leave."""

    PASSED = "passed"
    OVERRIDDEN = "released by a named person though the report did not pass"


@dataclass(frozen=True)
class Override:
    """Who releases a cohort whose report did not pass, why, and when (RFC 3339)."""

    by: str
    reason: str
    at: str

    def __post_init__(self) -> None:
        if not (self.by.strip() and self.reason.strip() and self.at.strip()):
            raise GemelError("GEM755", "An override needs a name, a reason and a time.")


@dataclass(frozen=True)
class Decision:
    """What stands with a released cohort.

    Attributes:
        report_sha256, model_sha256: What was decided about, by the hashes of the report and of the model.
        outcome: How it came to leave.
        failed, untested: The rows that stood against it, as "block: measure"; a required block without a row as the block.
        override: Who answers for these; None for a report that passed.
    """

    report_sha256: str
    model_sha256: str
    outcome: Outcome
    failed: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    override: Override | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def decide(
    document: Mapping[str, Any], *, model_sha256: str, override: Override | None = None, vouched: bool = False
) -> Decision:
    """Whether a cohort of this model may be exported, by its report's document.

    Args:
        document: The internal one; or the public one, when it is `vouched` for.
        model_sha256: The model that the cohort is drawn from.
        override: Who releases it all the same.
        vouched: The caller has checked the officer's signature over this public document, so what it says of the internal one
            counts. Otherwise a public document lacks the rows that are required, and is refused.

    Rows that gate must not fail; in the required blocks they must pass. Raises GEM756 for a report of another model or what is no
    report, GEM755 when it did not pass and nobody overrides that.
    """
    _check_is_about(document, model_sha256)
    if vouched and "gate" in document:
        failed, untested, report_sha256 = _stated(document["gate"])
    else:
        failed, untested = standing(document)
        report_sha256 = document_hash(dict(document))
    if not failed and not untested:
        return Decision(report_sha256, model_sha256, Outcome.PASSED)
    if override is None:
        raise GemelError("GEM755", _refusal(failed, untested))
    return Decision(report_sha256, model_sha256, Outcome.OVERRIDDEN, failed, untested, override)


def standing(document: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stands against a release, as "block: measure": (rows that failed, required ones that were not tested)."""
    gating = [row for row in document["findings"] if row["gates"]]
    failed = tuple(_name(row) for row in gating if row["verdict"] not in (Verdict.PASS, Verdict.NOT_TESTED))
    untested = [
        _name(row) for row in gating if row["block"] in REQUIRED and row["verdict"] == Verdict.NOT_TESTED
    ]
    present = {row["block"] for row in gating}
    untested += [block for block in REQUIRED if block not in present]
    if document["attacks"] < FEWEST_ATTACKS:
        untested.append(f"attacks: at least {FEWEST_ATTACKS:,} of each kind")
    return failed, tuple(untested)


def _check_is_about(document: Mapping[str, Any], model_sha256: str) -> None:
    rows = document.get("findings")
    keys = {"block", "measure", "verdict", "gates"}
    is_report = isinstance(rows, list) and all(isinstance(row, Mapping) and keys <= set(row) for row in rows)
    counted = isinstance(document.get("attacks"), int)
    if document.get("format") != FORMAT or not is_report or not counted:
        raise GemelError("GEM756", "The document is no report of a virtual cohort.")
    if document.get("model_sha256") != model_sha256:
        raise GemelError(
            "GEM756", f"The report is about model {document.get('model_sha256')}, this is {model_sha256}."
        )


def _stated(gate: Any) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """What a public document says of the internal one: (failed, not tested, its hash)."""
    try:
        failed, untested = (tuple(map(str, gate[part])) for part in ("failed", "untested"))
        return failed, untested, str(gate["internal_report_sha256"])
    except (KeyError, TypeError) as error:
        raise GemelError("GEM756", "The public document does not say how the internal one stands.") from error


def _refusal(failed: tuple[str, ...], untested: tuple[str, ...]) -> str:
    """The first rows by name; all of them stand in the report."""
    parts = []
    for words, rows in (("failed", failed), ("not tested", untested)):
        if rows:
            more = f"; and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
            parts.append(f"{len(rows)} {words}: {'; '.join(rows[:_NAMED])}{more}.")
    return f"The report does not pass. {' '.join(parts)}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['block']}: {row['measure']}"
