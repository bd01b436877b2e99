"""Membership in virtual trajectories: was this patient's history among those that a model of visits was made from?

The attacker has the model itself, which says more than anything that is drawn from it, and histories of other patients. One compares
how likely a history is under the model and under tables of those others; another trains models on random halves, and learns how
likely each history is with and without it (Carlini et al., IEEE S&P 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.report.attacks.membership import ISOLATED, likelihood_ratio, rows
from gemel.synthetic.report.attacks.people import Flags, Floats
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.trajectory.histories import Histories
from gemel.synthetic.trajectory.markov import WEIGHT, MarkovModel, count_steps

# The log of how likely each history (n,) is under a released model.
Likelihood = Callable[[Histories], Floats]
# A model from patients, another one for each seed.
Trainer = Callable[[Histories, int], Likelihood]
# Of a table's weights, what stands in each cell before anything is counted.
_BEFORE = 4
_NOBODY = 1e-9


@dataclass(frozen=True)
class HistoryCandidates:
    """Histories to be told apart, and how likely each would be among other patients.

    Attributes:
        histories: Members first. present: Who is one (n,).
        usual: Log likelihoods (n,) under tables of half of those kept out, of a control patient under the half without it.
    """

    histories: Histories
    present: Flags
    usual: Floats

    @classmethod
    def of(cls, training: Histories, holdout: Histories, *, seed: int) -> HistoryCandidates:
        """All training patients, and all who were kept out; members get one of the halves by lot."""
        random = np.random.default_rng(seed)
        own = random.permutation(len(holdout)) % 2
        histories = _together(training, holdout)
        half = np.concatenate([random.integers(0, 2, len(training)), 1 - own])
        usual = np.empty(len(histories))
        for number in (0, 1):
            told = _tables_of(holdout.take(np.flatnonzero(own == number)))
            usual[half == number] = told(histories.take(np.flatnonzero(half == number)))
        return cls(histories, np.arange(len(histories)) < len(training), usual)

    @property
    def isolated(self) -> Flags:
        """The 5 % that are least likely among other patients."""
        return np.argsort(np.argsort(self.usual, kind="stable")) < max(1, round(ISOLATED * len(self.usual)))


def attack(candidates: HistoryCandidates, model: Likelihood, *, name: str) -> Iterator[Finding]:
    """What can be told from one released model."""
    scores = model(candidates.histories) - candidates.usual
    yield from rows(f"histories, {name}", scores, candidates.present, candidates.isolated)


def attack_with_shadows(
    candidates: HistoryCandidates, model: Likelihood, trainer: Trainer, *, name: str, shadows: int, seed: int
) -> Iterator[Finding]:
    """What an attacker can tell who trains on random patients, as many as there were, `shadows` times."""
    random = np.random.default_rng(seed)
    everybody, members = candidates.histories, int(candidates.present.sum())
    found, was_in = [], []
    for number in range(shadows):
        drawn = random.permutation(len(everybody))[:members]
        found.append(trainer(everybody.take(drawn), seed + number)(everybody))
        was_in.append(np.isin(np.arange(len(everybody)), drawn))
    scores = likelihood_ratio(model(everybody)[:, None], np.stack(found)[:, :, None], np.stack(was_in))
    measure = f"histories, {name}, {shadows} shadow models"
    yield from rows(measure, scores, candidates.present, candidates.isolated)


def control(candidates: HistoryCandidates) -> Iterator[Finding]:
    """The same attack on the histories themselves: of the most isolated, whose histories nobody shares, it must find who was in."""
    present, few = candidates.present, candidates.isolated
    keys = np.column_stack([candidates.histories.strata, candidates.histories.tokens()])
    same = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    copies = np.bincount(same[present], minlength=int(same.max()) + 1)
    scores = np.log(copies[same] + _NOBODY) - candidates.usual
    measure = f"histories, the most isolated {ISOLATED:.0%}"
    yield from rows(measure, scores[few], present[few], few[few], positive=True)


def _tables_of(histories: Histories) -> Likelihood:
    """Exact tables of transitions, with a little in every cell."""
    added = {"first": 1, "next": WEIGHT // _BEFORE, "history": WEIGHT // _BEFORE}
    tables = {name: table + added[name] for name, table in count_steps(histories).items()}
    return MarkovModel(histories.panel, tables, _NO_PROMISE).log_likelihood


def _together(first: Histories, second: Histories) -> Histories:
    return Histories(
        first.panel,
        np.concatenate([first.strata, second.strata]),
        np.concatenate([first.levels, second.levels]),
    )


# The attacker's own tables promise nothing to anybody.
_NO_PROMISE = PrivacyStatement(
    epsilon=float("inf"),
    delta=1.0,
    mechanisms=(),
    unit="patient",
    neighbouring="add or remove one patient",
    noise="test",
)
