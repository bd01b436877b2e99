"""What hospitals record of the simulated people: noisy, at odd days, with gaps; and the data set that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import DAYS_PER_YEAR, Feature, FeatureKind, Target
from gemel.core.series import Series
from gemel.twins.definition import OpenPerson, Recorded
from gemel.twins.programmes.type_2_diabetes import DRUG_CLASSES, PROGRAMME
from gemel.twins.programmes.type_2_diabetes.simulated_people import (
    SITES,
    WEEKS_AFTER,
    WEEKS_BEFORE,
    Course,
    Floats,
    Form,
    People,
    Site,
    choose_drug,
    draw_people,
    follow,
)

# Noise of one measurement: U, in the range of what laboratories state.
HBA1C_CV, FASTING_CV, WEIGHT_SD_KG, BMI_SD = 0.03, 0.06, 0.8, 0.3
# Visits after the start: about this day, give or take, and the chance that HbA1c, fasting glucose and weight are measured.
VISITS = (
    (28, 7, 0.10, 0.35, 0.6),
    (91, 14, 0.55, 0.45, 0.7),
    (182, 24, 0.88, 0.45, 0.85),
    (365, 28, 0.82, 0.4, 0.8),
)
_COURSES = {"hba1c": "hba1c_percent", "fasting_glucose": "fasting_mg_dl", "body_weight": "weight_kg"}
_ONCE = {
    "body_mass_index": "bmi",
    "systolic_blood_pressure": "pressure",
    "egfr": "egfr",
    "alanine_aminotransferase": "alt",
    "triglycerides": "triglycerides",
    "hdl_cholesterol": "hdl",
}
_HISTORIES = {
    "hypertension": "hypertension",
    "ischaemic_heart_disease": "ischaemic",
    "cardiovascular_history": "cardiovascular",
    "thiazolidinedione": "thiazolidinedione",
    "insulin": "insulin",
}


@dataclass(frozen=True)
class Measurements:
    """All measurements of one concept: whose (row), on which day from the start of the drug, and what."""

    row: NDArray[np.int64]
    day: NDArray[np.int64]
    value: Floats

    def within(self, first: int, last: int) -> Measurements:
        """Those of some days."""
        mine = (self.day >= first) & (self.day <= last)
        return Measurements(self.row[mine], self.day[mine], self.value[mine])


@dataclass(frozen=True)
class SimulatedHospital:
    """People of one hospital, what truly happens to them, and what the hospital records of it."""

    site: Site
    form: Form
    people: People
    course: Course
    measured: dict[str, Measurements]
    followed_days: NDArray[np.int64]
    death_day: Floats  # infinite for who lives on
    cardiovascular_day: Floats

    def true_hba1c(self, day: float) -> Floats:
        """(n, classes): HbA1c on that day had each started each class, without any noise of measurement."""
        week = WEEKS_BEFORE + round(day / 7)
        return np.stack(
            [
                follow(self.people.on(drug), self.form).hba1c_percent[:, week]
                for drug in range(len(DRUG_CLASSES))
            ],
            axis=1,
        )


def simulated_hospitals(
    *, seed: int, form: Form = Form.TOPP, sites: Sequence[Site] = SITES
) -> tuple[SimulatedHospital, ...]:
    """Every hospital with its people; equal arguments give equal people."""
    return tuple(
        _hospital(site, form, np.random.default_rng([seed, number])) for number, site in enumerate(sites)
    )


def _hospital(site: Site, form: Form, random: np.random.Generator) -> SimulatedHospital:
    candidates = draw_people(site, 3 * site.patients, random)
    now = follow(candidates, form).hba1c_percent[:, WEEKS_BEFORE]
    seen = _assay(now, site, random)
    index = np.flatnonzero(seen >= site.starts_at_percent)[: site.patients]
    people = choose_drug(candidates.take(index), seen[index], site, random)
    course = follow(people, form)
    deaths, hearts = _events(people, course, random)
    followed = np.floor(random.uniform(200, 2200, len(index)))
    followed = np.where(random.random(len(index)) < 0.08, random.integers(20, 200, len(index)), followed)
    followed = np.minimum(followed, deaths).astype(np.int64)
    measured = _measure(people, course, seen[index], followed, site, random)
    return SimulatedHospital(site, form, people, course, measured, followed, deaths, hearts)


def _assay(true: Floats, site: Site, random: np.random.Generator) -> Floats:
    return np.clip(true * (1 + random.normal(0, HBA1C_CV, true.shape)) + site.assay_bias_percent, 4, 16)


def _events(people: People, course: Course, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Days to death and to the first cardiovascular event; hazards U."""
    k = people.known
    glycaemia = course.hba1c_percent[:, WEEKS_BEFORE + 26] - 8
    helps = np.where(np.isin(people.started, (2, 3)), np.log(0.87), 0.0)
    death = 0.012 * np.exp(0.085 * (k["age"] - 62) + 0.4 * k["cardiovascular"] + 0.1 * glycaemia + helps)
    heart = 0.016 * np.exp(
        0.05 * (k["age"] - 62) + 0.35 * k["male"] + 0.15 * glycaemia + 0.5 * k["ischaemic"] + helps
    )
    drawn = random.exponential(size=(2, len(death))) / np.stack([death, heart]) * DAYS_PER_YEAR
    deaths, hearts = np.ceil(drawn)
    return np.where(deaths > 3_652, np.inf, deaths), hearts


def _measure(
    people: People,
    course: Course,
    seen: Floats,
    followed: NDArray[np.int64],
    site: Site,
    random: np.random.Generator,
) -> dict[str, Measurements]:
    n = len(seen)
    everyone = np.arange(n)
    index_day = -random.integers(0, 46, n)
    visits: dict[str, list[Measurements]] = {name: [] for name in (*_COURSES, *_ONCE)}

    def take(name: str, days: NDArray[np.int64], chance: float) -> None:
        mine = (random.random(n) < chance) & (days <= followed)
        value = _noisy(name, _at(getattr(course, _COURSES[name]), days), site, random)
        visits[name].append(Measurements(everyone[mine], days[mine], value[mine]))

    # The value that made the doctor act, where it is on record here.
    known = random.random(n) >= site.hba1c_missing
    visits["hba1c"].append(Measurements(everyone[known], index_day[known], seen[known]))
    take("fasting_glucose", index_day, 1 - site.fasting_missing)
    take("body_weight", index_day, 1 - site.others_missing)
    for low, high, chance in ((90, 200, 0.7), (250, 420, 0.55)):
        take("hba1c", -random.integers(low, high, n), chance)
    for day, around, hba1c, fasting, weight in VISITS:
        days = np.rint(random.normal(day, around / 2, n).clip(day - around, day + around)).astype(np.int64)
        take("hba1c", days, hba1c)
        take("fasting_glucose", days, fasting)
        take("body_weight", days, weight)
    for name, hidden in _ONCE.items():
        mine = random.random(n) >= site.others_missing
        value = _noisy(name, people.known[hidden], site, random)
        visits[name].append(Measurements(everyone[mine], index_day[mine], value[mine]))
    return {name: _joined(parts) for name, parts in visits.items()}


def _noisy(name: str, true: Floats, site: Site, random: np.random.Generator) -> Floats:
    """A measurement, to the digits that a laboratory reports."""
    if name == "hba1c":
        return np.round(_assay(true, site, random), 1)
    if name == "fasting_glucose":
        return np.round(true * np.exp(random.normal(0, FASTING_CV, true.shape)))
    if name == "body_weight":
        return np.round(true + random.normal(0, WEIGHT_SD_KG, true.shape), 1)
    return np.round(true * np.exp(random.normal(0, 0.03, true.shape)), 1)


def _at(weekly: Floats, days: NDArray[np.int64]) -> Floats:
    """The course at a day of each person's, straight between weeks."""
    place = np.clip(days / 7 + WEEKS_BEFORE, 0, WEEKS_BEFORE + WEEKS_AFTER - 1e-9)
    before = np.floor(place).astype(np.int64)
    part = place - before
    rows = np.arange(len(days))
    return np.asarray((1 - part) * weekly[rows, before] + part * weekly[rows, before + 1])


def _joined(parts: Sequence[Measurements]) -> Measurements:
    row, day = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "day"))
    value = np.concatenate([part.value for part in parts])
    order = np.lexsort((value, day, row))
    return Measurements(row[order], day[order], value[order])


def dataset_of(hospital: SimulatedHospital) -> Dataset:
    """The hospital's data set, as its node would build it from the records; rows in the order of the pseudonyms."""
    people, n = hospital.people, len(hospital.followed_days)
    columns: dict[str, Floats] = {
        "age_years": people.known["age"],
        "male": people.known["male"],
        "days_since_diabetes_was_recorded": np.floor(people.known["duration"] * DAYS_PER_YEAR),
    }
    for number, name in enumerate(DRUG_CLASSES):
        columns[f"earlier_{name}"] = people.earlier[:, number].astype(float)
        columns[name] = np.maximum(columns[f"earlier_{name}"], people.started == number)
    columns |= {name: people.known[hidden] for name, hidden in _HISTORIES.items()}
    columns["days_since_hba1c"] = _days_since(hospital.measured["hba1c"].within(-365, 0), n)
    for feature in PROGRAMME.columns:
        if feature.kind in (FeatureKind.LAST, FeatureKind.MEAN):
            columns[feature.name] = _feature(feature, hospital.measured[feature.concepts[0]], n)
    values = np.column_stack([columns[name] for name in PROGRAMME.feature_names])
    targets = np.column_stack(
        [_value_at(target, hospital.measured[target.concepts[0]], n) for target in PROGRAMME.targets]
    )
    time, event = _clocks(hospital)
    names = np.array([pseudonym(hospital, row) for row in range(n)])
    order = np.argsort(names)
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(names[order].tolist()),
        values[order].astype(np.float32),
        time[order].astype(np.float32),
        event[order].astype(np.int8),
        PROGRAMME.target_names,
        targets[order].astype(np.float32),
    )


def pseudonym(hospital: SimulatedHospital, row: int) -> str:
    """A name for a row that decides nothing by its order."""
    return hashlib.sha256(f"{hospital.site.name}:{row}".encode()).hexdigest()[:32]


def rows_in_order(hospital: SimulatedHospital) -> NDArray[np.intp]:
    """The row of each patient of `dataset_of`."""
    return np.argsort([pseudonym(hospital, row) for row in range(len(hospital.followed_days))])


def series_after(hospital: SimulatedHospital, concept: str, *, first: int, last: int) -> Series:
    """What was measured of a concept on some days, in the order of `dataset_of`."""
    part = hospital.measured[concept].within(first, last)
    n = len(hospital.followed_days)
    counts = np.bincount(part.row, minlength=n)
    series = Series(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        part.day.astype(np.float32),
        part.value.astype(np.float32),
    )
    return series.take(rows_in_order(hospital))


def _feature(feature: Feature, measured: Measurements, n: int) -> Floats:
    start = feature.start_days
    part = measured.within(start if start is not None else -100_000, feature.to_days)
    column = np.full(n, np.nan)
    if feature.kind is FeatureKind.LAST:
        column[part.row] = part.value  # sorted: the last one stays
        return column
    counts = np.bincount(part.row, minlength=n)
    sums = np.bincount(part.row, part.value, minlength=n)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _days_since(measured: Measurements, n: int) -> Floats:
    column = np.full(n, np.nan)
    column[measured.row] = -measured.day
    return column


def _value_at(target: Target, measured: Measurements, n: int) -> Floats:
    day = int(target.at_days or 0)
    part = measured.within(day - target.tolerance_days, day + target.tolerance_days)
    order = np.lexsort((-part.value, -part.day, -np.abs(part.day - day), part.row))
    column = np.full(n, np.nan)
    column[part.row[order]] = part.value[order]
    return column


def _clocks(hospital: SimulatedHospital) -> tuple[Floats, NDArray[np.int8]]:
    end = hospital.followed_days.astype(float)
    died = hospital.death_day <= end
    prevalent = hospital.people.known["cardiovascular"] > 0
    hit = ~prevalent & (hospital.cardiovascular_day <= end)
    time = np.column_stack([end, np.where(prevalent, 0, np.where(hit, hospital.cardiovascular_day, end))])
    event = np.column_stack(
        [
            np.where(died, OCCURRED, CENSORED),
            np.where(prevalent, PREVALENT, np.where(hit, OCCURRED, CENSORED)),
        ]
    )
    return time / DAYS_PER_YEAR, event.astype(np.int8)


def open_people(hospital: SimulatedHospital, *, start: date = date(2018, 1, 1)) -> Iterator[OpenPerson]:
    """The same people as a demo writes them into FHIR."""
    rows: dict[str, list[list[tuple[int, float]]]] = {}
    n = len(hospital.followed_days)
    for concept, measured in hospital.measured.items():
        rows[concept] = [[] for _ in range(n)]
        for row, day, value in zip(
            measured.row.tolist(), measured.day.tolist(), measured.value.tolist(), strict=True
        ):
            rows[concept][row].append((day, value))
    for row in range(n):
        index = start + timedelta(days=500 + (row * 37) % 700)
        yield _open_person(hospital, row, index, {name: runs[row] for name, runs in rows.items()})


def _open_person(
    hospital: SimulatedHospital, row: int, index: date, measured: dict[str, list[tuple[int, float]]]
) -> OpenPerson:
    known, end = hospital.people.known, int(hospital.followed_days[row])
    last = index + timedelta(days=end)
    first = index - timedelta(days=430)

    def on(day: float) -> date:
        return index + timedelta(days=int(day))

    recorded = [Recorded("type_2_diabetes", on(-np.floor(known["duration"][row] * DAYS_PER_YEAR)))]
    for number, (concept, _) in enumerate(DRUG_CLASSES.values()):
        if hospital.people.earlier[row, number]:
            recorded.append(Recorded(concept, first, until=last))
        elif hospital.people.started[row] == number:
            stops = min(end, 7 * hospital.people.hidden["stops_week"][row])
            recorded.append(Recorded(concept, index, until=on(max(stops, 1))))
    for concept, column in (("thiazolidinediones", "thiazolidinedione"), ("insulins", "insulin")):
        if known[column][row]:
            recorded.append(Recorded(concept, first, until=last))
    for concept, column in (
        ("hypertension", "hypertension"),
        ("ischaemic_heart_disease", "ischaemic"),
        ("heart_failure", "cardiovascular"),
    ):
        if known[column][row]:
            recorded.append(Recorded(concept, first))
    if not known["cardiovascular"][row] and hospital.cardiovascular_day[row] <= end:
        recorded.append(Recorded("myocardial_infarction", on(hospital.cardiovascular_day[row])))
    days = {first, index, last}
    for concept, run in measured.items():
        recorded += [Recorded(concept, on(day), value) for day, value in run]
        days |= {on(day) for day, _ in run}
    dies = bool(hospital.death_day[row] <= end)
    return OpenPerson(
        identity=f"{hospital.site.name}-{row:05d}",
        hospital=hospital.site.name,
        birth=index - timedelta(days=round(known["age"][row] * DAYS_PER_YEAR)),
        male=bool(known["male"][row]),
        died=last if dies else None,
        visits=tuple((day, day) for day in sorted(days)),
        recorded=tuple(sorted(recorded, key=lambda one: (one.day, one.concept, one.value or 0.0))),
    )
