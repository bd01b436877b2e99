"""People with known associations, in public bins: real ones, hold-out ones, and virtual ones that follow them or do not."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.synthetic.columns import Categories, Numbers, Role, Times
from gemel.synthetic.domain import Domain, table_domain
from gemel.synthetic.report import Evidence
from gemel.synthetic.report.people_table import PeopleTable

DAYS = (0.0, 30.0, 90.0, 180.0, 365.0)


def ward_domain() -> Domain:
    return table_domain(
        [
            ("sex", Categories(("female", "male"), "male"), Role.FEATURE),
            ("age", Numbers(tuple(range(20, 101, 10)), 1.0, 60.0), Role.FEATURE),
            ("albumin", Numbers((0.0, 2.0, 3.0, 3.5, 4.0, 6.0), 0.01), Role.FEATURE),
            ("race", Categories(("black", "other", "white"), "other"), Role.FEATURE),
            ("aspirin", Categories((0.0, 1.0), 0.0), Role.TREATMENT),
            ("death", Times(DAYS, DAYS, to_the_end=True), Role.OUTCOME),
            ("relapse", Times(DAYS, prevalent=True), Role.OUTCOME),
            ("icu", Categories((0.0, 1.0), 0.0), Role.TARGET),
        ]
    )


def ward(people: int, seed: int, *, effect: float = -0.6) -> dict:
    """Older people and those with little albumin die earlier; aspirin goes to the older, and helps."""
    random = np.random.default_rng(seed)
    age = np.clip(random.normal(62, 14, people), 20, 100).round()
    albumin = np.clip(random.normal(3.6 - 0.01 * (age - 60), 0.6, people), 0.1, 5.9).round(2)
    sex = random.choice(["female", "male"], people)
    aspirin = (random.random(people) < 1 / (1 + np.exp(-(age - 62) / 14))).astype(float)
    score = 0.6 * (age - 62) / 14 - 0.7 * (albumin - 3.5) / 0.6 + effect * aspirin + 0.4 * (sex == "male")
    days = np.ceil(random.exponential(400 * np.exp(-score)))
    end = np.minimum(np.ceil(random.uniform(200, 700, people)), 365.0)
    died, left = days <= end, np.minimum(days, end)
    again = np.ceil(random.exponential(300 * np.exp(-0.5 * score)))
    before = random.random(people) < 0.1
    relapse = np.where(before, -1, (again <= left).astype(int))
    return {
        "sex": sex,
        "age": age,
        "albumin": np.where(random.random(people) < 0.1, np.nan, albumin),
        "race": random.choice(["black", "other", "white"], people, p=[0.2, 0.1, 0.7]),
        "aspirin": aspirin,
        "death": (left, died.astype(int)),
        "relapse": (np.where(before, 0.0, np.minimum(again, left)), relapse),
        "icu": (random.random(people) < 1 / (1 + np.exp(-score - 0.5))).astype(float),
    }


@pytest.fixture(scope="session")
def ward_columns():
    """The public columns of `make_ward`'s people."""
    return ward_domain()


@pytest.fixture(scope="session")
def make_ward():
    """People by column: `make_ward(people, seed)`."""
    return ward


@pytest.fixture(scope="session")
def table():
    """People as a table: `table(columns)`."""
    return lambda columns: PeopleTable(ward_domain(), columns)


@pytest.fixture(scope="session")
def patients() -> Evidence:
    """1,500 training and 1,200 hold-out patients."""
    return Evidence(ward_domain(), ward(1500, 1), ward(1200, 3))


@pytest.fixture(scope="session")
def faithful(patients) -> list[dict]:
    """Five draws that follow the patients closely: most are training patients, the others new ones of their law.

    New ones alone differ from so few patients by more than the thresholds allow.
    """
    return [mixed(patients.training, ward(1500, 10 + seed), seed) for seed in range(5)]


def mixed(first: dict, second: dict, seed: int) -> dict:
    new = np.random.default_rng(seed).random(1500) < 0.15

    def mix(one, other):
        return np.where(new, other, one)

    return {
        name: tuple(map(mix, first[name], second[name]))
        if isinstance(first[name], tuple)
        else mix(first[name], second[name])
        for name in first
    }
