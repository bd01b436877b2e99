"""Acute strokes of the same form as the trial's, for where its file is not at hand: simulated, and only that.

The generator is not the twin: severity is one hidden number, events come from it by rules of thumb.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np

from gemel.twins.definition import OpenPerson, Recorded

PEOPLE, HOSPITALS = 4000, 40
_FIRST = date(2020, 1, 6)
# How often a deficit is there, on the scale of logits, for a typical stroke; it rises with severity.
_DEFICITS = {
    "nihss_facial_palsy": 1.1,
    "nihss_arm": 2.0,
    "nihss_leg": 1.3,
    "nihss_language": -0.2,
    "nihss_visual": -1.6,
    "nihss_neglect": -1.6,
    "nihss_ataxia": -2.0,
}


def simulated_people(random: np.random.Generator) -> Iterator[OpenPerson]:
    """4,000 people of 40 hospitals of unequal size."""
    shares = random.dirichlet(np.full(HOSPITALS, 1.5))
    for number in range(PEOPLE):
        yield _person(random, f"simulated-{number}", int(random.choice(HOSPITALS, p=shares)))


def _person(random: np.random.Generator, identity: str, hospital: int) -> OpenPerson:
    day_0 = _FIRST + timedelta(days=int(random.integers(0, 700)))
    age = float(np.clip(random.normal(72, 12), 20, 100))
    severity = random.normal() + 0.01 * (age - 72)
    aspirin, heparin = random.random(2) < 0.5
    outlook = 1.1 * severity + 0.05 * (age - 72) - 0.05 * aspirin + random.normal(0, 0.7)
    died = _death_day(random, outlook)
    end = min(died, int(random.integers(170, 220))) if died is not None else int(random.integers(170, 220))
    recorded = [*_first_day(random, day_0, severity, age), *_given(day_0, aspirin, heparin)]
    recurrence = int(random.integers(1, 15))
    if random.random() < 0.03 and recurrence <= end:
        recorded.append(Recorded("ischaemic_stroke", day_0 + timedelta(days=recurrence)))
    if died is None:
        level = int(np.searchsorted([-1.6, -0.7, 0.0, 0.9, 2.0], outlook + random.logistic(0, 0.5)))
        recorded.append(Recorded("modified_rankin_scale", day_0 + timedelta(days=end), float(level)))
    stay = min(end, int(random.integers(5, 15)))
    return OpenPerson(
        identity=identity,
        hospital=f"simulated-{hospital:02d}",
        birth=day_0 - timedelta(days=round(age * 365.25)),
        male=bool(random.random() < 0.53),
        died=day_0 + timedelta(days=died) if died is not None else None,
        visits=(
            (day_0, day_0 + timedelta(days=stay)),
            (day_0 + timedelta(days=end), day_0 + timedelta(days=end)),
        ),
        recorded=tuple(recorded),
    )


def _death_day(random: np.random.Generator, outlook: float) -> int | None:
    if random.random() > 1 / (1 + np.exp(-(1.2 * outlook - 1.7))):
        return None
    # Half of those who die do so within three weeks.
    return int(min(1 + random.exponential(12 if random.random() < 0.5 else 70), 180))


def _first_day(random: np.random.Generator, day_0: date, severity: float, age: float) -> Iterator[Recorded]:
    yield Recorded("ischaemic_stroke" if random.random() < 0.33 else "stroke", day_0)
    yield Recorded("nihss_consciousness", day_0, float((severity > 1.0) + 2 * (severity > 2.4)))
    for concept, place in _DEFICITS.items():
        chance = 1 / (1 + np.exp(-(place + severity)))
        if random.random() < 0.95:
            yield Recorded(concept, day_0, float(random.random() < chance))
    yield Recorded("systolic_blood_pressure", day_0, float(np.clip(round(random.normal(160, 27)), 80, 250)))
    if random.random() < 1 / (1 + np.exp(-(-1.9 + 0.06 * (age - 72)))):
        yield Recorded("atrial_fibrillation", day_0)
    if random.random() < 0.2:
        yesterday = day_0 - timedelta(days=1)
        yield Recorded("aspirin", yesterday, until=yesterday)


def _given(day_0: date, aspirin: bool, heparin: bool) -> Iterator[Recorded]:
    for given, concept in ((aspirin, "aspirin"), (heparin, "heparin")):
        if given:
            yield Recorded(concept, day_0, until=day_0 + timedelta(days=14))
