"""People who never lived, with type 2 diabetes, who start a drug: the patients that the twin is shown with and measured on.

No open data hold patients' measured response to glucose-lowering drugs. So these are simulated, by mechanisms that are NOT the
twin's, and this module shares no code with it:

- `Form.TOPP`: glucose and insulin of Topp 2000 in their fast steady state (his equations 1 and 2 with his parameters as the
  typical person's; V), with renal loss, output of the liver, secretion and meals as what drugs act on; HbA1c as the mean of
  the glucose that red cells of all ages have seen, by the line of ADAG.
- `Form.TURNOVER`: another published form, in which HbA1c itself turns over and a drug lowers its production by a part of it.
  A linear model with drug times covariate terms is nearly right there.

What is not V is marked U in `_TYPICAL`: chosen once, so that mean effects of the classes come near the published ones, before
the twin was looked at. Never a source for a claim about people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CLASSES = ("metformin", "sulfonylurea", "sglt2_inhibitor", "glp_1_receptor_agonist", "dpp_4_inhibitor")
# Weeks before and after the start of the drug that glucose is followed; red cells live so many weeks.
WEEKS_BEFORE, WEEKS_AFTER, RED_CELL_WEEKS = 104, 60, 17
_TOPP = {"r0": 864.0, "eg0": 1.44, "si": 0.72, "sigma": 43.2, "alpha": 20_000.0, "k": 432.0}  # V
_TYPICAL = {  # all U
    "si_log": -1.05,  # insulin sensitivity of a person with diabetes, against Topp's
    "si_bmi": -0.030,
    "si_triglycerides": -0.12,
    "si_sd": 0.305,  # the spread that Choy 2016 found between people, V there
    "r0_alt": 0.06,
    "r0_sd": 0.06,
    "beta_mg": 430.0,
    "beta_duration": -0.035,
    "beta_sd": 0.42,
    "meals_mg_dl": 32.0,
    "glycation_sd": 0.05,
    "lifestyle_sd": 0.12,
    "lifestyle_weeks": 17.0,
    "potency_sd": 0.40,
    "counselling": 0.04,
    "si_per_kg": -0.022,
}


class Form(StrEnum):
    """By which equations the people are simulated."""

    TOPP = "topp"
    TURNOVER = "turnover"


@dataclass(frozen=True)
class Site:
    """A hospital: whom it sees, when it acts, what it prescribes, and what it does not measure."""

    name: str
    patients: int
    age: float = 62.0
    body_mass_index: float = 31.5
    starts_at_percent: float = 7.2
    hba1c_missing: float = 0.10
    fasting_missing: float = 0.40
    others_missing: float = 0.15
    assay_bias_percent: float = 0.0
    formulary: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)


SITES = (
    Site("harbour", 1800),
    Site(
        "hill",
        1200,
        age=66,
        body_mass_index=29.5,
        fasting_missing=0.2,
        formulary=(0.0, 0.8, -0.6, -0.8, 0.3),
    ),
    Site(
        "old-town",
        820,
        age=68,
        starts_at_percent=7.6,
        hba1c_missing=0.2,
        formulary=(0.0, 0.6, -0.4, -1.0, 0.8),
    ),
    Site(
        "university",
        560,
        age=57,
        body_mass_index=35,
        fasting_missing=0.6,
        assay_bias_percent=0.1,
        formulary=(-0.6, -1.0, 0.8, 1.0, -0.4),
    ),
    Site(
        "plain",
        380,
        starts_at_percent=7.8,
        hba1c_missing=0.25,
        others_missing=0.35,
        assay_bias_percent=-0.1,
    ),
    Site(
        "island",
        240,
        age=64,
        body_mass_index=33,
        fasting_missing=0.7,
        formulary=(0.4, 0.2, 0.0, -0.4, 0.0),
    ),
)


@dataclass(frozen=True)
class People:
    """n people on the day they start a drug; hidden quantities first. All arrays have n rows.

    Attributes:
        hidden: by name, what no hospital knows: sensitivity, secretion, liver output, potency (n, 5), and so on.
        known: by name, what could be measured, without noise: age, male, bmi, weight, egfr, ...
        earlier: (n, 5), classes taken before. started: (n,), the class that is started.
    """

    hidden: dict[str, Floats]
    known: dict[str, Floats]
    earlier: Flags
    started: NDArray[np.int64]

    def take(self, index: NDArray[np.intp]) -> People:
        """Some of them."""
        hidden = {name: array[index] for name, array in self.hidden.items()}
        known = {name: array[index] for name, array in self.known.items()}
        return People(hidden, known, self.earlier[index], self.started[index])

    def on(self, drug: int) -> People:
        """The same people, had they started another class."""
        return replace(self, started=np.full(len(self.started), drug))


@dataclass(frozen=True)
class Course:
    """What truly happens, by week from -WEEKS_BEFORE to WEEKS_AFTER: (n, weeks) each."""

    fasting_mg_dl: Floats
    hba1c_percent: Floats
    weight_kg: Floats


def draw_people(site: Site, patients: int, random: np.random.Generator) -> People:
    """People as this hospital sees them; the class that they start is not chosen yet."""
    n, t = patients, _TYPICAL
    age = np.clip(random.normal(site.age, 11, n), 25, 92)
    male = (random.random(n) < 0.56).astype(float)
    bmi = np.clip(site.body_mass_index * np.exp(random.normal(0, 0.17, n)) - 0.08 * (age - site.age), 19, 58)
    height = np.where(male > 0, random.normal(1.75, 0.07, n), random.normal(1.62, 0.065, n))
    duration = random.gamma(1.2, 5.0, n)
    egfr = np.clip(106 - 0.85 * (age - 40) + random.normal(0, 14, n), 16, 130)
    alt = 27 * np.exp(0.02 * (bmi - 31) + random.normal(0, 0.42, n))
    triglycerides = 160 * np.exp(0.012 * (bmi - 31) + random.normal(0, 0.42, n))
    hdl = np.clip(47 - 5 * male - 0.25 * (bmi - 31) + random.normal(0, 10, n), 18, 110)
    pressure = np.clip(random.normal(131 + 0.25 * (age - 60) + 0.3 * (bmi - 31), 15, n), 90, 210)
    hidden = {
        "log_sensitivity": t["si_log"]
        + t["si_bmi"] * (bmi - 31)
        + t["si_triglycerides"] * np.log(triglycerides / 160)
        + random.normal(0, t["si_sd"], n),
        "log_output": t["r0_alt"] * np.log(alt / 27) + random.normal(0, t["r0_sd"], n),
        "log_secretion": np.log(t["beta_mg"])
        + t["beta_duration"] * duration
        - 0.1 * (bmi < 26)
        + random.normal(0, t["beta_sd"], n),
        "secretion_fall_per_year": np.clip(random.normal(0.06, 0.05, n), 0, None),
        "meals_mg_dl": t["meals_mg_dl"] * np.exp(random.normal(0, 0.25, n)),
        "glycation": np.exp(random.normal(0, t["glycation_sd"], n)),
        "potency": np.exp(random.normal(0, t["potency_sd"], (n, len(CLASSES)))),
        "adherence": random.beta(6, 1.5, n),
        "stops_week": np.where(random.random(n) < 0.18, random.uniform(2, 60, n), 1e6),
        "lifestyle": _lifestyle(n, random),
        "drift_kg_per_year": random.normal(-0.2, 1.5, n),
    }
    known = {
        "age": age, "male": male, "bmi": bmi, "weight": bmi * height**2, "duration": duration, "egfr": egfr,
        "alt": alt, "triglycerides": triglycerides, "hdl": hdl, "pressure": pressure,
        "hypertension": (random.random(n) < 0.55).astype(float),
        "ischaemic": (random.random(n) < 0.08 + 0.006 * np.clip(age - 50, 0, None)).astype(float),
        "cardiovascular": (random.random(n) < 0.05 + 0.004 * np.clip(age - 50, 0, None)).astype(float),
        "thiazolidinedione": (random.random(n) < 0.04).astype(float),
        "insulin": (random.random(n) < 0.06).astype(float),
    }  # fmt: skip
    return People(hidden, known, _earlier(duration, random), np.full(n, -1))


def _lifestyle(people: int, random: np.random.Generator) -> Floats:
    """A stationary wandering of the logarithm of insulin sensitivity, (n, weeks)."""
    kept = np.exp(-1 / _TYPICAL["lifestyle_weeks"])
    steps = random.normal(0, _TYPICAL["lifestyle_sd"], (people, WEEKS_BEFORE + WEEKS_AFTER + 1))
    for week in range(1, steps.shape[1]):
        steps[:, week] = kept * steps[:, week - 1] + np.sqrt(1 - kept**2) * steps[:, week]
    return steps


def _earlier(duration: Floats, random: np.random.Generator) -> Flags:
    """Classes taken before: metformin first, others the later the disease."""
    chance = np.array([0.0, 0.25, 0.12, 0.06, 0.18])
    taken = random.random((len(duration), len(CLASSES))) < chance * np.clip(duration / 8, 0, 1)[:, None]
    taken[:, 0] = random.random(len(duration)) < np.clip(0.25 + duration / 6, 0, 0.85)
    return taken


def choose_drug(people: People, hba1c: Floats, site: Site, random: np.random.Generator) -> People:
    """By indication: what the doctor of that hospital would start, among the classes not taken yet."""
    k = people.known
    score = np.stack(
        [
            1.8 - 0.03 * np.clip(60 - k["egfr"], 0, None) * 2,
            0.6 + 0.25 * (hba1c - 8) - 0.05 * (k["bmi"] - 31),
            0.5 + 0.03 * (k["egfr"] - 75) + 0.04 * (k["bmi"] - 31) - 0.02 * (k["age"] - 62),
            -0.1 + 0.12 * (k["bmi"] - 31) + 0.2 * (hba1c - 8) - 0.02 * (k["age"] - 62),
            0.4 + 0.03 * (k["age"] - 62) - 0.02 * (k["egfr"] - 75) - 0.2 * (hba1c - 8),
        ],
        axis=1,
    ) + np.array(site.formulary)
    score = score + random.gumbel(size=score.shape)
    return replace(people, started=np.argmax(np.where(people.earlier, -np.inf, score), axis=1))


def follow(people: People, form: Form) -> Course:
    """What truly happens to them under the class that they start (-1: none)."""
    weeks = np.arange(-WEEKS_BEFORE, WEEKS_AFTER + 1)
    dose = _dose(people, weeks)
    weight = people.known["weight"][:, None] + _weight_change(people, weeks, dose)
    if form is Form.TURNOVER:
        return _turnover(people, weeks, dose, weight)
    before = _fasting(people, weeks, np.zeros((*dose.shape, len(CLASSES))), weight)
    by_class = dose[:, :, None] * (people.started[:, None] == np.arange(len(CLASSES)))[:, None, :]
    fasting = before if not by_class.any() else _fasting(people, weeks, by_class, weight)
    relief = 1 - by_class @ np.array([0.05, 0.05, 0.15, 0.25, 0.20])  # U: of what meals add
    meals = people.hidden["meals_mg_dl"][:, None] * np.clip(relief, 0.3, 1) + 0.12 * (fasting - 100)
    seen = (fasting + meals + 46.7) / 28.7  # ADAG
    return Course(fasting, _of_red_cells(seen) * people.hidden["glycation"][:, None], weight)


def _dose(people: People, weeks: NDArray[np.int64]) -> Floats:
    """Adherence times onset times this person's potency, (n, weeks); 0 before the start and after the stop."""
    onset = np.where(weeks > 0, 1 - np.exp(-np.clip(weeks, 0, None) / 3.0), 0.0)
    taking = (people.started >= 0)[:, None] & (weeks[None] < people.hidden["stops_week"][:, None])
    mine = np.take_along_axis(people.hidden["potency"], np.clip(people.started, 0, None)[:, None], axis=1)
    return onset * taking * people.hidden["adherence"][:, None] * mine


def _weight_change(people: People, weeks: NDArray[np.int64], dose: Floats) -> Floats:
    """kg from the weight at the start; what a drug does to it comes slowly."""
    at_steady_state = np.array(
        [-1.0, 2.0, -2.6, -3.4, 0.1]
    )  # U at full dose; abstracts give -0.9, 2.0, -1.8, -1.5
    gradual = np.where(weeks > 0, 1 - np.exp(-np.clip(weeks, 0, None) / 14.0), 0.0)
    scale = people.known["bmi"][:, None] / 31
    drug = np.where(people.started >= 0, at_steady_state[people.started], 0.0)[:, None]
    return drug * dose * gradual * scale + people.hidden["drift_kg_per_year"][:, None] * weeks / 52.18


def _fasting(people: People, weeks: NDArray[np.int64], dose: Floats, weight: Floats) -> Floats:
    """The glucose (n, weeks) at which production and disposal are equal: Topp's first two equations at rest."""
    h, t = people.hidden, _TYPICAL
    after = (weeks > 0) & (people.started >= 0)[:, None]
    sensitivity = _TOPP["si"] * np.exp(
        h["log_sensitivity"][:, None]
        + h["lifestyle"]
        + t["si_per_kg"] * (weight - people.known["weight"][:, None])
        + t["counselling"] * after
    )
    output = _TOPP["r0"] * np.exp(h["log_output"][:, None]) * (1 - 0.18 * np.clip(dose[:, :, 0], 0, 2.5))
    fade = np.exp(-np.clip(weeks, 0, None) / 150.0)
    boost = 1 + 0.75 * dose[:, :, 1] * fade + 0.32 * dose[:, :, 3] + 0.14 * dose[:, :, 4]
    secretion = np.exp(h["log_secretion"][:, None] - h["secretion_fall_per_year"][:, None] * weeks / 52.18)
    insulin = _TOPP["sigma"] / _TOPP["k"] * secretion * boost
    renal = 0.85 * dose[:, :, 2] * (people.known["egfr"][:, None] / 90)
    low, high = np.full(insulin.shape, 40.0), np.full(insulin.shape, 600.0)
    for _ in range(26):
        glucose = (low + high) / 2
        squared = glucose**2
        disposal = (_TOPP["eg0"] + sensitivity * insulin * squared / (_TOPP["alpha"] + squared)) * glucose
        # Above what the tubules take up without the drug, sugar is lost anyway.
        lost = renal * np.clip(glucose - 80, 0, None) + 0.8 * np.clip(glucose - 200, 0, None)
        rises = output > disposal + lost
        low, high = np.where(rises, glucose, low), np.where(rises, high, glucose)
    return np.asarray((low + high) / 2)


def _of_red_cells(seen: Floats) -> Floats:
    """The mean over red cells of all ages: a week counts as many cells as are older than it."""
    weights = np.arange(RED_CELL_WEEKS, 0, -1, dtype=float)
    padded = np.concatenate([np.repeat(seen[:, :1], RED_CELL_WEEKS - 1, axis=1), seen], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, RED_CELL_WEEKS, axis=1)
    return np.asarray(windows @ (weights[::-1] / weights.sum()))


def _turnover(people: People, weeks: NDArray[np.int64], dose: Floats, weight: Floats) -> Course:
    """HbA1c that turns over: dH/dt = kout · (H0 · (1 - E) - H), H0 drifting; fasting glucose by a line from its target."""
    h, k = people.hidden, people.known
    rest = 8.2 + 1.7 * (
        h["log_output"] * 4 - (h["log_sensitivity"] + 1.05) - 0.7 * (h["log_secretion"] - 5.95)
    )
    rest = np.clip(rest, 5.6, 14.0)[:, None] + h["secretion_fall_per_year"][:, None] * 3 * weeks / 52.18
    rest = rest - 2.2 * h["lifestyle"]
    strength = np.array([0.125, 0.135, 0.075, 0.115, 0.080])[np.clip(people.started, 0, None)]
    renal = np.where(people.started == 2, k["egfr"] / 85, 1.0)
    heavy = np.where(people.started == 3, np.exp(0.02 * (k["bmi"] - 31)), 1.0)
    wanted = rest * (1 - np.clip((strength * renal * heavy)[:, None] * dose, 0, 0.5))
    rate = 7 * np.log(2) / (4.15 * 7)  # a week; half-life of Riggs 2014
    hba1c = np.empty_like(wanted)
    hba1c[:, 0] = wanted[:, 0]
    for week in range(1, wanted.shape[1]):
        hba1c[:, week] = hba1c[:, week - 1] + (1 - np.exp(-rate)) * (wanted[:, week] - hba1c[:, week - 1])
    return Course(np.clip(28.7 * wanted - 46.7 - 35, 60, None), hba1c * h["glycation"][:, None], weight)
