"""The card of a data set: who is in, who is out and why, what was measured of whom, and what became of the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import Programme
from gemel.core.series import Series
from gemel.data_adapters.dataset.cohort import CohortCounts
from gemel.data_adapters.inputs.account import InputAccount
from gemel.data_adapters.meaning.account import FactsAccount
from gemel.data_adapters.meaning.consent import OPTED_OUT, Withheld
from gemel.data_adapters.omop.account import OmopAccount
from gemel.data_adapters.reading.intake import FileCount, Reject

_EVENTS = {"occurred": OCCURRED, "censored": CENSORED, "prevalent": PREVALENT}
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
_LOOKED_AT = 1 << 22
_SHOWN_CODES = 50
_NAMED = 100


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """How the values of one column lie, in its unit; quantiles are values that occur, None when there is none.

    `share_missing` is of patients (of a series: those without any pair). Of more than four million pairs of a series,
    the quantiles are those of an even choice.
    """

    values: int
    share_missing: float
    lowest: float | None = None
    p5: float | None = None
    p25: float | None = None
    median: float | None = None
    p75: float | None = None
    p95: float | None = None
    highest: float | None = None


class SeriesCard(msgspec.Struct, frozen=True, kw_only=True):
    """How long the series of the patients are, and how their values lie."""

    patients: int
    pairs: int
    median_pairs: int
    p95_pairs: int
    most_pairs: int
    first_day: float | None
    last_day: float | None
    values: Distribution


class Rejected(msgspec.Struct, frozen=True):
    """One rejected line, row or item: where it stands (a line, a row after the header, an entry; "" is all of the file)."""

    file: str
    place: str
    code: str
    reason: str


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the source's lines (FHIR) or rows (OMOP).

    Attributes:
        source: "FHIR R4", "OMOP CDM v5.4" or the like.
        withheld: Patients without consent, or who opted out, by reason; nothing else of them is counted anywhere.
        consents_of_nobody: Consents that name no patient, readable or not: denials that are perhaps lost.
        opt_out_unmatched: Entries of the opt-out list that name nobody: these people are perhaps still in.
            `opt_out_unmatched_lines`: the lines of the list on which the first 100 of them stand.
        files: Read, accepted, rejected by file; `rejects` by code; `rejected` the first 100 of them.
        excluded_resources: Accepted lines that do not count, as "Type: reason"; `superseded` older versions by type.
        orphans: Accepted lines whose patient is not in the source, by type.
        values, bounds, implausible, absent: Statements used, those of them that are a bound ("<5"), and those left out
            as outside the plausible bounds or without a value; by concept.
        unmapped: The most frequent codes that the programme does not know, as "system|code"; all are in the total.
        unit_problems: Values left out for their unit, as "concept: unit".
        partial_dates: Dates without a day, by element.
        unread: What is there and was not read, as "name: reason".
    """

    source: str
    withheld: dict[str, int]
    consents_of_nobody: int = 0
    opt_out_unmatched: int = 0
    opt_out_unmatched_lines: list[int] = []
    files: list[FileCount]
    rejects: dict[str, int]
    rejected: list[Rejected] = []
    excluded_resources: dict[str, int]
    superseded: dict[str, int]
    orphans: dict[str, int]
    values: dict[str, int]
    bounds: dict[str, int]
    implausible: dict[str, int]
    absent: dict[str, int]
    unmapped: dict[str, int]
    unmapped_total: int
    unit_problems: dict[str, int]
    partial_dates: dict[str, int]
    unread: list[str]


class InputCard(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the items of one further input.

    Attributes:
        input: Its name.
        items: Items by kind of file and outcome, as "vcf: used"; `files_rejected` whole files at fault.
        facts: Facts added, by concept.
        rejects: Rejected items and files, as "code: reason"; `rejected` the first 100 of them, whole files first.
        unread: Entries of no known kind, as "name: reason".
        images: Volumes that were kept.
    """

    input: str
    items: dict[str, int]
    files_rejected: int
    facts: dict[str, int]
    rejects: dict[str, int]
    rejected: list[Rejected] = []
    unread: list[str]
    images: int


class DatasetCard(Reading, frozen=True, kw_only=True):
    """What went into a data set and what was left out. Its numbers are exact: it stays inside the hospital.

    Attributes:
        cohort: Patients read, in, and out by the first reason that applies; `reasons` says the programme's own reasons
            in a sentence.
        coverage: Patients with a value, by feature; `events` of each outcome: occurred, censored, prevalent.
        target_coverage: Patients with a value, by target.
        distributions: By feature and by target (but series).
        series: By feature or target.
        inputs: Images, wearables, genomes and so on, each on its own.
        links_unused: Rows of the link tables that no input is called by, as "table:line"; the first 100.
        links_unused_total: How many there are.
        future: Statements left out because they are dated after the day of the build ("fact", "visit", "death",
            "birth"); where dates were moved to hide them, the mapping says `dates_shifted`.
    """

    programme: str
    programme_version: str
    snapshot: str
    cohort: CohortCounts
    reasons: dict[str, str]
    coverage: dict[str, int]
    events: dict[str, dict[str, int]]
    target_coverage: dict[str, int]
    distributions: dict[str, Distribution]
    series: dict[str, SeriesCard]
    inputs: list[InputCard]
    links_unused: list[str] = []
    links_unused_total: int = 0
    future: dict[str, int]


def describe(
    dataset: Dataset,
    programme: Programme,
    counts: CohortCounts,
    reading: Reading,
    *,
    inputs: Sequence[InputCard] = (),
    links_unused: Sequence[str] = (),
    future: dict[str, int],
) -> DatasetCard:
    """The card of a data set that was built from a source."""
    features = {name: dataset.values[:, i] for i, name in enumerate(dataset.features)}
    targets = {name: dataset.targets[:, i] for i, name in enumerate(dataset.target_names)}
    criteria = (*programme.cohort.required, *programme.cohort.exclusions)
    return DatasetCard(
        **{name: getattr(reading, name) for name in Reading.__struct_fields__},
        programme=dataset.programme,
        programme_version=dataset.programme_version,
        snapshot=dataset.snapshot,
        cohort=counts,
        reasons={criterion.name: criterion.reason for criterion in criteria},
        coverage=_coverage(features),
        events={
            outcome: {name: int((dataset.event[:, i] == value).sum()) for name, value in _EVENTS.items()}
            for i, outcome in enumerate(dataset.outcomes)
        },
        target_coverage=_coverage(targets),
        distributions={
            name: _distribution(column, missing=float(np.isnan(column).mean()))
            for name, column in (features | targets).items()
        },
        series={name: _series_card(series) for name, series in dataset.series.items()},
        inputs=list(inputs),
        links_unused=list(links_unused[:_NAMED]),
        links_unused_total=len(links_unused),
        future=future,
    )


def describe_input(name: str, account: InputAccount) -> InputCard:
    """The account of one further input, as far as a card shows it."""
    items: Counter[str] = Counter()
    for file in account.files:
        if file.fault is None:
            items.update({f"{file.kind}: {outcome}": n for outcome, n in file.outcomes.items()})
    return InputCard(
        input=name,
        items=dict(sorted(items.items())),
        files_rejected=account.files_rejected,
        facts=dict(sorted(account.facts.items())),
        rejects={f"{code}: {reason}": n for (code, reason), n in sorted(account.reasons.items())},
        rejected=[
            Rejected(one.file, one.place, one.code, one.reason)
            for one in sorted(account.rejects, key=lambda one: one.place != "")[:_NAMED]
        ],
        unread=account.unread,
        images=len(account.images),
    )


def fhir_reading(account: FactsAccount, withheld: Withheld) -> Reading:
    """The account of a FHIR export, as far as a card shows it."""
    # Those for whom no reason is told are without the permission that the site's mapping requires.
    rest = account.withheld.patients - sum(withheld.reasons.values())
    return Reading(
        source=f"FHIR {account.fhir_version}",
        withheld=dict(withheld.reasons) | ({"without a permission": rest} if rest > 0 else {}),
        consents_of_nobody=withheld.nobody,
        opt_out_unmatched=withheld.unmatched,
        opt_out_unmatched_lines=list(withheld.unmatched_lines),
        files=account.files,
        rejects=account.rejects_by_code,
        rejected=_rejected(account.rejects),
        excluded_resources=account.excluded
        | ({"Patient: merged into another record": account.merged} if account.merged else {}),
        superseded=account.superseded,
        orphans=account.orphans,
        values=account.by_concept("values"),
        bounds=account.by_concept("bounds"),
        implausible=account.by_concept("implausible"),
        absent=account.by_concept("absent"),
        unmapped={f"{code.system}|{code.code}": code.count for code in account.unmapped[:_SHOWN_CODES]},
        unmapped_total=account.unmapped_total,
        unit_problems={f"{p.concept}: {p.unit}": p.count for p in account.unit_problems},
        partial_dates=account.partial_dates,
        unread=account.unread,
    )


def omop_reading(account: OmopAccount) -> Reading:
    """The account of a CDM, as far as a card shows it."""
    return Reading(
        source=f"OMOP CDM {account.cdm_version}".rstrip(),
        withheld={OPTED_OUT: account.withheld} if account.withheld else {},
        opt_out_unmatched=account.opt_out_unmatched,
        opt_out_unmatched_lines=account.opt_out_unmatched_lines,
        files=account.files,
        rejects=account.rejects_by_code,
        rejected=_rejected(account.rejects),
        excluded_resources=account.excluded,
        superseded=account.superseded,
        orphans=account.orphans,
        values=account.values,
        bounds=account.bounds,
        implausible=account.implausible,
        absent=account.absent,
        unmapped={f"{code.system}|{code.code}": code.count for code in account.unmapped[:_SHOWN_CODES]},
        unmapped_total=account.unmapped_total,
        unit_problems={f"{p.concept}: {p.unit}": p.count for p in account.unit_problems},
        partial_dates=account.partial_dates,
        unread=account.unread,
    )


def _rejected(rejects: Sequence[Reject]) -> list[Rejected]:
    """The first rejected lines or rows, without what they say of anybody."""
    return [
        Rejected(
            one.file,
            one.place or str(one.line),
            one.code,
            f"{one.resource_type or ''} {one.path}".strip() + f": {one.reason}",
        )
        for one in rejects[:_NAMED]
    ]


def _coverage(columns: dict[str, NDArray[np.float32]]) -> dict[str, int]:
    return {name: int(np.isfinite(column).sum()) for name, column in columns.items()}


def _distribution(values: NDArray[np.float32], *, missing: float) -> Distribution:
    finite = values[:: max(1, values.size // _LOOKED_AT)]
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Distribution(values=0, share_missing=missing)
    # Values that occur, by nearest rank: not a number between two levels.
    found = np.quantile(finite, _QUANTILES, method="inverted_cdf")
    lowest, p5, p25, median, p75, p95, highest = (float(value) for value in found)
    return Distribution(
        values=int(np.isfinite(values).sum()),
        share_missing=missing,
        lowest=lowest,
        p5=p5,
        p25=p25,
        median=median,
        p75=p75,
        p95=p95,
        highest=highest,
    )


def _series_card(series: Series) -> SeriesCard:
    lengths = series.lengths
    median, p95, most = np.quantile(lengths, (0.5, 0.95, 1), method="inverted_cdf")
    return SeriesCard(
        patients=int((lengths > 0).sum()),
        pairs=int(series.days.size),
        median_pairs=int(median),
        p95_pairs=int(p95),
        most_pairs=int(most),
        first_day=float(series.days.min()) if series.days.size else None,
        last_day=float(series.days.max()) if series.days.size else None,
        values=_distribution(series.values, missing=float((lengths == 0).mean())),
    )
