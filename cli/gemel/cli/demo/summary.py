"""What a demo run says about itself (`summary.json`), as types: the report is drawn from this and nothing else.

Unknown keys are ignored and optional parts may be absent, so a summary may hold more and a run may show less.
Paths are relative to the folder of the summary. Probabilities are fractions of 1, ages and times are in years.
A metric that cannot be computed (no event in time) is null, never 0.

    title, seconds, rounds, delta
    study            {title, sha256, programme}
    sites[]          {name, title?, patients, epsilon_spent, epsilon_cap, left[]: {what, bytes}}
    rounds_detail[]  {round, sites: [name], missing: [{site, code}], seconds, bytes}
    metrics          {federated_dp, pooled, local, cox: SCORES, released: {outcome: {auc_5y, auc_10y:
                     {value, standard_error}}}, per_site: {site: {held_out_patients, federated_dp, local, local_on_all: SCORES}}}
    SCORES           {outcome: {auc_5y, auc_10y, ibs}} with at least "death" and "cardiovascular"
    what_if          {patient: {feature: value}, change, years[], factual, counterfactual: {outcome: [..]},
                     low, high: {"factual" | "counterfactual": {outcome: [..]}}, range_note}
    synthetic        {patients, files[], survival: {years[], real[], virtual[]}, marginal_distance: {feature: distance},
                     nearest_neighbour: {label: number}, report}
    ledgers[]        {site, file, entries[]: {task, epsilon_after}}
    certificate      {file, sha256}, or the file's name alone
"""

from __future__ import annotations

from typing import Any

import msgspec

Curves = dict[str, list[float]]


class StudyLine(msgspec.Struct, frozen=True):
    """Which signed study was run."""

    title: str
    sha256: str
    programme: str


class Left(msgspec.Struct, frozen=True):
    """One kind of thing that left a hospital through its gate, and its size over the whole study."""

    what: str
    bytes: int


class Site(msgspec.Struct, frozen=True):
    """One hospital: its people, what each of them spent, and what left."""

    name: str
    patients: int
    epsilon_spent: float
    epsilon_cap: float
    title: str = ""
    left: list[Left] = []

    @property
    def label(self) -> str:
        """The title when there is one, else the name."""
        return self.title or self.name

    @property
    def bytes_left(self) -> int:
        """All bytes that left this hospital."""
        return sum(item.bytes for item in self.left)


class Missing(msgspec.Struct, frozen=True):
    """A hospital that did not take part in a round, and the closed code that says why."""

    site: str
    code: str


class Round(msgspec.Struct, frozen=True):
    """One round of training."""

    round: int
    sites: list[str]
    missing: list[Missing] = []
    seconds: float | None = None
    bytes: int | None = None


class Score(msgspec.Struct, frozen=True):
    """How well one model foresees one outcome; null where it cannot be computed."""

    auc_5y: float | None = None
    auc_10y: float | None = None
    ibs: float | None = None


Scores = dict[str, Score]


class Released(msgspec.Struct, frozen=True):
    """A metric computed from noisy released tables, with the standard error that the noise and the sample cause."""

    value: float | None
    standard_error: float | None = None


class SiteScores(msgspec.Struct, frozen=True):
    """One hospital's held-out patients: the joint twin, its own twin, and its own twin on everybody's held-out."""

    federated_dp: Scores
    held_out_patients: int | None = None
    local: Scores = {}
    local_on_all: Scores = {}


class Metrics(msgspec.Struct, frozen=True):
    """The four models on the same held-out patients."""

    federated_dp: Scores
    pooled: Scores
    local: Scores
    cox: Scores
    released: dict[str, dict[str, Released]] = {}
    per_site: dict[str, SiteScores] = {}


class WhatIf(msgspec.Struct, frozen=True):
    """One patient's expected course as is, and after one change."""

    patient: dict[str, float | str | bool | None]
    change: str
    years: list[float]
    factual: Curves
    counterfactual: Curves
    low: dict[str, Curves] = {}
    high: dict[str, Curves] = {}
    range_note: str = ""


class Survival(msgspec.Struct, frozen=True):
    """Share alive by year, in the real and in the virtual cohort."""

    years: list[float]
    real: list[float]
    virtual: list[float]


class Synthetic(msgspec.Struct, frozen=True):
    """The virtual cohort."""

    patients: int
    files: list[str]
    survival: Survival | None = None
    marginal_distance: dict[str, float] | float | None = None
    nearest_neighbour: dict[str, float | None] | float | None = None
    report: str | None = None


class LedgerEntry(msgspec.Struct, frozen=True):
    """What a person of this hospital had spent after a task."""

    task: str
    epsilon_after: float


class Ledger(msgspec.Struct, frozen=True):
    """One hospital's ledger for this study."""

    site: str
    entries: list[LedgerEntry] = []
    file: str = ""


class Certificate(msgspec.Struct, frozen=True):
    """The signed run certificate."""

    file: str
    sha256: str = ""


class Summary(msgspec.Struct, frozen=True):
    """All of one demo run."""

    rounds: int
    sites: list[Site]
    metrics: Metrics
    synthetic: Synthetic
    certificate: Certificate | str
    seconds: float
    study: StudyLine
    delta: float
    rounds_detail: list[Round] = []
    what_if: WhatIf | None = None
    ledgers: list[Ledger] = []
    title: str = ""

    @property
    def certificate_line(self) -> Certificate:
        """The certificate in its long form."""
        return Certificate(self.certificate) if isinstance(self.certificate, str) else self.certificate

    @property
    def patients(self) -> int:
        """People over all hospitals."""
        return sum(site.patients for site in self.sites)


def read_summary(summary: dict[str, Any]) -> Summary:
    """Check a summary's JSON values. Raises `msgspec.ValidationError` naming field and fault."""
    return msgspec.convert(summary, Summary)
