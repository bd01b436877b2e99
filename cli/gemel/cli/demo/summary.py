"""What a demo run says about itself (`summary.json`), as types: the report is drawn from this and nothing else.

Unknown keys are ignored and optional parts may be absent, so a summary may hold more and a run may show less.
Paths are relative to the folder of the summary. Probabilities are fractions of 1, ages and times are in years.
A metric that cannot be computed (no event in time) is null, never 0.

    title, seconds, rounds, delta
    study            {title, sha256, programme}
    source           {title, simulated, licence}
    sites[]          {name, title?, patients, epsilon_spent, epsilon_cap, left[]: {what, bytes}}
    rounds_detail[]  {round, sites: [name], missing: [{site, code}], seconds, bytes}
    endpoints        {endpoint: {title, phrase, main, figures: {score: heading}, higher_is_better}}
    metrics          {federated_dp, pooled, local, age_and_sex: SCORES, baselines[]: {name, title, source, mark, endpoint, figure,
                     patients, score, twin}, released: {endpoint: {score: {value, standard_error}}},
                     per_site: {site: {held_out_patients, federated_dp, local, local_on_all: SCORES}}}
    SCORES           {endpoint: {score: value}}
    what_if          {title, patient[]: {title, value, unit, flag}, plan, other, described[], claim, assumptions[], unchecked[], reasons[], times[],
                     time_unit, titles: {outcome: title}, with_plan, with_other: {outcome: [..]}, low, high: {"plan" | "other": {outcome: [..]}},
                     range_note, courses[]: {name, unit, with_plan[], with_other[]}, targets[]: {title, with_plan, with_other}}
    assimilation     {title, parameters[], steps[]: {observations, taken, parameters[], expected, later[]}, later[], at}
    synthetic        {patients, files[], survival: {years[], real[], virtual[]}, marginal_distance: {column's title: distance}, model,
                     report, internal_report, gate: {outcome, passed, failed[], untested[], by, reason}}
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


class Source(msgspec.Struct, frozen=True):
    """Whose records the hospitals hold: an open cohort's, or made-up ones."""

    title: str
    simulated: bool = False
    licence: str = ""


class EndpointLine(msgspec.Struct, frozen=True):
    """What the twin is scored on: in a sentence (`phrase`), in a table (`figures`: a heading for each score), in one number (`main`)."""

    title: str
    phrase: str
    main: str
    figures: dict[str, str]
    higher_is_better: bool = True


# By endpoint, by score; null where it cannot be computed.
Scores = dict[str, dict[str, float | None]]


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


class BaselineLine(msgspec.Struct, frozen=True):
    """A published score beside the joint twin, both on those held-out patients who have its inputs."""

    title: str
    endpoint: str
    figure: str
    patients: int
    score: float | None
    twin: float | None
    source: str = ""
    mark: str = ""


class Metrics(msgspec.Struct, frozen=True):
    """The four models on the same held-out patients, and the published scores."""

    federated_dp: Scores
    pooled: Scores
    local: Scores
    age_and_sex: Scores
    baselines: list[BaselineLine] = []
    released: dict[str, dict[str, Released]] = {}
    per_site: dict[str, SiteScores] = {}


class PatientLine(msgspec.Struct, frozen=True):
    """A feature of the example; `flag`: 1 and 0 mean yes and no."""

    title: str
    value: float | None
    unit: str = ""
    flag: bool = False


class CoursePair(msgspec.Struct, frozen=True):
    """Something measured, as expected under both plans."""

    name: str
    unit: str
    with_plan: list[float]
    with_other: list[float]


class TargetPair(msgspec.Struct, frozen=True):
    """Something at one day, as expected under both plans, in words."""

    title: str
    with_plan: str
    with_other: str


class WhatIf(msgspec.Struct, frozen=True):
    """One patient's expected course under two plans; with `reasons` when the twin may not say."""

    patient: list[PatientLine]
    plan: str
    other: str
    described: list[str] = []
    title: str = ""
    claim: str = ""
    assumptions: list[str] = []
    unchecked: list[str] = []
    reasons: list[str] = []
    times: list[float] = []
    time_unit: str = "years"
    titles: dict[str, str] = {}
    with_plan: Curves = {}
    with_other: Curves = {}
    low: dict[str, Curves] = {}
    high: dict[str, Curves] = {}
    range_note: str = ""
    courses: list[CoursePair] = []
    targets: list[TargetPair] = []


class AssimilationStep(msgspec.Struct, frozen=True):
    """After some observations: the last of them, the person's parameters, what is expected of the next and of later, in words."""

    observations: int
    taken: str
    parameters: list[str]
    expected: str
    later: list[str]


class Assimilation(msgspec.Struct, frozen=True):
    """One patient to whom the twin is fitted, one observation after the other."""

    title: str
    parameters: list[str]
    later: list[str]
    at: str
    steps: list[AssimilationStep]


class Survival(msgspec.Struct, frozen=True):
    """Share alive by year, in the real and in the virtual cohort."""

    years: list[float]
    real: list[float]
    virtual: list[float]


class GateLine(msgspec.Struct, frozen=True):
    """What the release gate said: rows that decide and passed, the names of the others, and who answers for these."""

    outcome: str
    passed: int
    failed: list[str] = []
    untested: list[str] = []
    by: str = ""
    reason: str = ""


class Synthetic(msgspec.Struct, frozen=True):
    """The virtual cohort."""

    patients: int
    files: list[str]
    survival: Survival | None = None
    marginal_distance: dict[str, float] = {}
    model: str | None = None
    report: str | None = None
    internal_report: str | None = None
    gate: GateLine | None = None


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
    endpoints: dict[str, EndpointLine]
    source: Source
    rounds_detail: list[Round] = []
    what_if: WhatIf | None = None
    assimilation: Assimilation | None = None
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
