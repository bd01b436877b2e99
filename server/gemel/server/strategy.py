"""How a round's releases become the next global twin. A strategy is one file in `server/flower/strategies/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemel.core.arrays import Arrays
from gemel.core.study import Study


@dataclass(frozen=True)
class Update:
    """One hospital's release of a round.

    Attributes:
        site: Whose.
        arrays: Its trained parameters.
        weight: Its released, noisy number of patients.
        started_from: The global twin that it was trained from.
        staleness: How many times the global twin has moved since; 0 in rounds that all take together.
    """

    site: str
    arrays: Arrays
    weight: float
    started_from: Arrays
    staleness: int = 0


class Strategy(ABC):
    """Pure: all that it remembers from round to round is the state, arrays that the coordinator keeps with the model.

    Everything here is computed from releases, so it costs no privacy.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    def start(self, model: Arrays) -> Arrays:
        """The state before the first round: none, for a strategy that remembers nothing."""
        return {}

    def inputs(self, model: Arrays, state: Arrays, site: str) -> Arrays:
        """What a site is sent to train from: the model, and beside it what `declared_inputs` allows."""
        return model

    @abstractmethod
    def aggregate(self, model: Arrays, updates: Sequence[Update], state: Arrays) -> tuple[Arrays, Arrays]:
        """The next model and state, from at least one update. The same updates in another order give the same bits."""

    def aggregate_total(self, model: Arrays, mean: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """The next model and state from the weighted mean of a masked sum, of which no single release is known."""
        return self.aggregate(model, [Update(site="", arrays=mean, weight=1.0, started_from=model)], state)


def weights_of(updates: Sequence[Update]) -> Mapping[str, float]:
    """Site -> weight."""
    return {update.site: update.weight for update in updates}
