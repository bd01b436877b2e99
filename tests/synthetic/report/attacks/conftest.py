"""Made-up people with a rare outlier each, virtual cohorts of theirs, and a small mechanism on trial."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.synthetic.columns import Categories, Numbers, Role, Times
from gemel.synthetic.domain import Domain, table_domain
from gemel.synthetic.report.attacks.federation import Hospital, Subject, subject_for
from gemel.synthetic.report.attacks.suite import Sides
from gemel.synthetic.report.evidence import Evidence

GRID = (0.0, 30.0, 90.0, 180.0, 365.0)


def small_domain() -> Domain:
    return table_domain(
        [
            ("male", Categories((0.0, 1.0)), Role.FEATURE),
            ("age", Numbers((18.0, 40.0, 50.0, 60.0, 70.0, 80.0, 102.0), 0.01), Role.FEATURE),
            ("albumin", Numbers((0.0, 2.0, 3.0, 3.5, 4.0, 6.0), 0.01), Role.FEATURE),
            ("sodium", Numbers((100.0, 130.0, 135.0, 140.0, 145.0, 185.0), 0.01), Role.FEATURE),
            ("weight", Numbers(tuple(range(30, 160, 5)), 0.1), Role.FEATURE),
            ("pulse", Numbers(tuple(range(30, 200, 5)), 1.0), Role.FEATURE),
            ("race", Categories(("asian", "black", "other", "white"), "other"), Role.FEATURE),
            ("diabetes", Categories((0.0, 1.0), 0.0), Role.FEATURE),
            ("aspirin", Categories((0.0, 1.0), 0.0), Role.TREATMENT),
            ("death", Times(GRID, GRID), Role.OUTCOME),
        ]
    )


def made_up(people: int, seed: int) -> dict:
    """Values as `Domain.encode_columns` takes them: older people die earlier."""
    random = np.random.default_rng(seed)
    age = np.clip(random.normal(65, 14, people), 18, 101.9)
    days = np.ceil(random.exponential(9000 / age)) + 1
    albumin = np.where(random.random(people) < 0.1, np.nan, random.normal(3.4, 0.7, people).clip(0, 5.9))
    return {
        "male": random.integers(0, 2, people).astype(float),
        "age": age.round(2),
        "albumin": albumin.round(2),
        "sodium": random.normal(138, 6, people).clip(101, 184).round(2),
        "weight": random.normal(78, 15, people).clip(31, 154).round(1),
        "pulse": random.normal(80, 15, people).clip(31, 194).round(),
        "race": random.choice(["asian", "black", "other", "white"], people),
        "diabetes": (random.random(people) < 0.2).astype(float),
        "aspirin": random.integers(0, 2, people).astype(float),
        "death": (np.minimum(days, 365.0), (days < 365).astype(int)),
    }


def sides_with(virtual: dict, training: dict, holdout: dict) -> Sides:
    return Sides.of(Evidence(small_domain(), training, holdout), [virtual])


@pytest.fixture(scope="session")
def domain() -> Domain:
    return small_domain()


@pytest.fixture(scope="session")
def independent() -> Sides:
    """A virtual cohort that never saw the training patients: the same law, and nothing of them."""
    return sides_with(made_up(1000, 1), made_up(1000, 2), made_up(1000, 3))


@pytest.fixture(scope="session", params=["each release", "masked sums"])
def subject(request, domain) -> Subject[Hospital]:
    shared = request.param == "masked sums"
    return subject_for(domain, epsilon=3.0, delta=1e-5, patients=60, shared=shared)


@pytest.fixture(scope="session")
def make_up():
    """Values of so many people: `make_up(people, seed)`."""
    return made_up


@pytest.fixture(scope="session")
def lay_out():
    """The sides of an attack from the values of virtual, training and hold-out people."""
    return sides_with
