"""Patients for the tests of this programme: the example, simulated hospitals, and a twin that was trained a little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gemel.core.dataset import Dataset
from gemel.twins.programmes.type_2_diabetes import PROGRAMME
from gemel.twins.programmes.type_2_diabetes.definition import DEFINITION
from gemel.twins.programmes.type_2_diabetes.simulated_people import SITES
from gemel.twins.programmes.type_2_diabetes.simulated_records import (
    SimulatedHospital,
    dataset_of,
    simulated_hospitals,
)
from gemel.twins.programmes.type_2_diabetes.twin import TypeTwoDiabetesTwin


@pytest.fixture(scope="session")
def example() -> np.ndarray:
    """The patient of the definition, raw values (1, d)."""
    return np.array([[DEFINITION.example.values.get(name, np.nan) for name in PROGRAMME.feature_names]])


@pytest.fixture(scope="session")
def hospitals() -> tuple[SimulatedHospital, ...]:
    """Two hospitals with 400 people each."""
    sites = tuple(replace(site, patients=400) for site in SITES[2:4])
    return simulated_hospitals(seed=5, sites=sites)


@pytest.fixture(scope="session")
def datasets(hospitals) -> tuple[Dataset, ...]:
    """Their data sets."""
    return tuple(dataset_of(hospital) for hospital in hospitals)


@pytest.fixture(scope="session")
def untrained() -> TypeTwoDiabetesTwin:
    """The twin at its public start."""
    return TypeTwoDiabetesTwin(PROGRAMME)


@pytest.fixture(scope="session")
def trained(datasets) -> TypeTwoDiabetesTwin:
    """A twin after forty plain steps on the first hospital."""
    twin = TypeTwoDiabetesTwin(PROGRAMME)
    batch = twin.tensors(datasets[0])
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.8)
    for _ in range(40):
        optimiser.zero_grad()
        twin(batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 4.0)
        optimiser.step()
    return twin
