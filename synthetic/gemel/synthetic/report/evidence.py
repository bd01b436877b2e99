"""The patients that a report holds virtual people against: those who were counted, and those who were kept out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.synthetic.domain import Domain

# People by column name, as `Domain.encode_columns` takes them: values (n,), or (days (n,), event (n,)).
Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """Real patients beside virtual ones.

    Attributes:
        domain: The public columns.
        training: The patients whose counts the model was fitted to.
        holdout: Patients of the same kind who were counted nowhere.
        sites: Where each was treated, names (n,) of training and of hold-out patients; None where it is not known.
        open_data: The patients' data are published anyway, so that exact numbers about the hold-out may be public too.
    """

    domain: Domain
    training: Columns
    holdout: Columns
    sites: tuple[NDArray[Any], NDArray[Any]] | None = None
    open_data: bool = False

    def __post_init__(self) -> None:
        """Raises GEM757 when a column is missing or columns are not equally long."""
        for name, people in (("training", self.training), ("hold-out", self.holdout)):
            check_columns(self.domain, people, name)
        counts = count_people(self.training), count_people(self.holdout)
        if self.sites is not None and tuple(map(len, self.sites)) != counts:
            raise GemelError("GEM757", "The sites of the patients are not as many as the patients.")

    @classmethod
    def of_datasets(
        cls,
        domain: Domain,
        training: Dataset,
        holdout: Dataset,
        *,
        sites: tuple[NDArray[Any], NDArray[Any]] | None = None,
        open_data: bool = False,
    ) -> Evidence:
        """From a programme's data sets."""
        return cls(domain, domain.columns_of(training), domain.columns_of(holdout), sites, open_data)


def count_people(people: Columns) -> int:
    """How many people there are."""
    first = next(iter(people.values()))
    return len(first[0] if isinstance(first, tuple) else first)


def check_columns(domain: Domain, people: Columns, who: str) -> None:
    """Refuse (GEM757) people who lack a column of the domain, or whose columns are not equally long."""
    missing = sorted(set(domain.names) - set(people))
    if missing:
        raise GemelError("GEM757", f"The {who} patients lack {', '.join(missing)}.")
    lengths = {len(part) for name in domain.names for part in parts_of(people[name])}
    if len(lengths) != 1 or 0 in lengths:
        raise GemelError("GEM757", f"The columns of the {who} patients are not equally long, or empty.")


def parts_of(column: Any) -> tuple[NDArray[Any], ...]:
    """The arrays of a column: one, or days and event."""
    return column if isinstance(column, tuple) else (np.asarray(column),)
