"""The open people of this programme: those of Olmsted County's fatty-liver cohort who had atrial fibrillation.

The source, its defects and its invented calendar dates: `gemel.twins.programmes.fatty_liver.open_data`. Here, as a hospital
would have it, a visit is added on the day of the diagnosis, and whoever had the arrhythmia when the record started has it
recorded again at the first visit: that is the index date then. The cohort was not drawn for this question: people are in it for
their fatty liver or as controls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gemel.twins.definition import OpenPerson, Recorded
from gemel.twins.programmes.fatty_liver.open_data import OlmstedCounty

_DIAGNOSIS = "atrial_fibrillation"


class OlmstedFibrillation:
    """People of Olmsted County with atrial fibrillation, from the day on which it was found or their record started."""

    title = "Olmsted County, people with atrial fibrillation (R package survival, nafld1-3)"
    file = OlmstedCounty.file
    licence = OlmstedCounty.licence
    simulated_title = OlmstedCounty.simulated_title

    def people(self, data: Path | None, *, seed: int) -> Iterator[OpenPerson]:
        """As `OlmstedCounty.people`, those with the arrhythmia only."""
        for person in OlmstedCounty().people(data, seed=seed):
            days = [item.day for item in person.recorded if item.concept == _DIAGNOSIS]
            if not days:
                continue
            start, end = person.visits[0][0], person.visits[-1][1]
            index = max(start, min(days))
            if index > end:
                continue
            again = (Recorded(_DIAGNOSIS, index),) if index > min(days) else ()
            visits = tuple(sorted({*person.visits, (index, index)}))
            yield replace(person, visits=visits, recorded=(*person.recorded, *again))
