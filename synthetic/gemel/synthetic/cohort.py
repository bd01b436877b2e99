"""From a fitted model to a virtual cohort. Post-processing only: no patient is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, PREVALENT, Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.synthetic.anchored_tree.model import Given, TreeModel
from gemel.synthetic.domain import DecodedTable, domain_of
from gemel.synthetic.provenance import CohortProvenance, check_covers, read_provenance, release_id
from gemel.twins.design import design_of


@dataclass(frozen=True)
class VirtualCohort:
    """Patients that never existed.

    Attributes:
        values: float32 (n, d), each in its feature's unit, NaN where missing.
        time_years: float32 (n, k), whole days over 365.25. event: int8 (n, k), as in `core.dataset.Dataset`.
        targets: float32 (n, t) in the order of the programme's `target_names`; NaN where the patient had died before,
            and of what the model does not hold.
        source_patients_estimate: how many patients the hospitals counted, as far as the noisy tables tell.
        given: The condition that all were drawn under: the names of the levels that a column may have.
        model_sha256: Of the model's file, which a decision to release must be about.
    """

    programme: Programme
    values: NDArray[np.float32]
    time_years: NDArray[np.float32]
    event: NDArray[np.int8]
    targets: NDArray[np.float32]
    seed: int
    provenance: CohortProvenance
    source_patients_estimate: float
    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model_sha256: str = ""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def release(self) -> str:
        """The name of this cohort: equal for equal sources, seed, size and condition."""
        return release_id(self.provenance, seed=self.seed, patients=len(self), given=self.given)

    def columns(self) -> dict[str, Any]:
        """The people by column of the programme's domain, as `Domain.encode_columns` takes them."""
        programme = self.programme
        rows = Dataset(
            programme.name,
            programme.version,
            programme.feature_names,
            programme.outcome_names,
            tuple(f"{number:012x}" for number in range(len(self))),
            self.values,
            self.time_years,
            self.event,
            programme.target_names,
            self.targets,
        )
        return domain_of(programme).columns_of(rows)


def sample(
    model: TreeModel,
    *,
    patients: int,
    seed: int,
    provenance: Mapping[str, Any],
    given: Given | None = None,
    model_sha256: str = "",
) -> VirtualCohort:
    """Draw virtual patients with their outcomes. Equal arguments give equal cohorts.

    Args:
        model: Fitted to what hospitals released, of a programme's domain.
        patients: How many.
        seed: Of the draw.
        provenance: `provenance.CohortProvenance` as JSON.
        given: Levels that columns must have (`Domain.within`, `Domain.equal`): "women over 70".
        model_sha256: Of the model's file; without it the cohort cannot be exported.

    Raises GEM702 unless the provenance bounds the privacy loss of all sources and is about these very tables, GEM704 for a
    condition that nobody meets.
    """
    statement, domain = read_provenance(provenance), model.domain
    programme = domain.programme
    if programme is None or (statement.programme, statement.programme_version) != (
        programme.name,
        programme.version,
    ):
        raise GemelError("GEM702", f"The provenance is of {statement.programme}, the model is not.")
    check_covers(statement, precision=sum(query.sigma**-2 for query in model.queries))
    levels = {name: tuple(sorted({int(level) for level in wanted})) for name, wanted in (given or {}).items()}
    drawn = domain.decode(model.sample(patients, seed=seed, given=levels), seed=seed)
    time_years, event = _one_history(programme, drawn)
    return VirtualCohort(
        programme,
        drawn.values,
        time_years,
        event,
        drawn.targets,
        seed,
        statement,
        model.total,
        {
            name: tuple(domain.column(name).levels[level] for level in wanted)
            for name, wanted in levels.items()
        },
        model_sha256,
    )


def _one_history(programme: Programme, drawn: DecodedTable) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Times and events (n, k) that say of a disease before the index date what the patient's history says.

    That is one fact in two columns, of which the model knows only how often they agree.
    """
    design, time_years, event = design_of(programme), drawn.time_years.copy(), drawn.event.copy()
    before = design.prevalent(drawn.values)
    for j, feature in enumerate(design.history):
        if feature is None:
            continue
        unsaid = (event[:, j] == PREVALENT) & ~before[:, j]
        event[unsaid, j], time_years[unsaid, j] = CENSORED, time_years[unsaid, 0]
        event[before[:, j], j], time_years[before[:, j], j] = PREVALENT, 0.0
    return time_years, event
