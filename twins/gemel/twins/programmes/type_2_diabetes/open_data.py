"""The people that this programme is shown with: simulated ones, for no open data hold measured responses to these drugs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from gemel.twins.definition import OpenPerson
from gemel.twins.programmes.type_2_diabetes.simulated_people import SITES, Site
from gemel.twins.programmes.type_2_diabetes.simulated_records import open_people, simulated_hospitals


class SimulatedTypeTwoDiabetes:
    """Six hospitals of people who never lived, 240 to 1,800 in each: see `simulated_people`."""

    def __init__(self, sites: Sequence[Site] = SITES) -> None:
        self._sites = tuple(sites)

    title = "Simulated people with type 2 diabetes: no open data hold responses to glucose-lowering drugs"
    file = ""
    licence = "made by the programme; nobody's data"
    simulated_title = title

    def people(self, data: Path | None, *, seed: int) -> Iterator[OpenPerson]:
        """Everybody, the hospitals in turn; `data` is not read."""
        for turn in zip_longest(
            *(open_people(hospital) for hospital in simulated_hospitals(seed=seed, sites=self._sites))
        ):
            yield from (person for person in turn if person is not None)
