"""The stroke twin: from the first day's findings to a person's impairment, its recovery, and what both lead to.

    encoder: columns of the examination -> impairment on the first day, in points of the NIH Stroke Scale (where the scale was
        counted, that says it); all other columns -> vulnerability
    physiology: the impairment recovers (`recovery`); core and penumbra under reperfusion (`tissue`)
    prognosis at a time: the impairment left then, over that of a typical stroke, and the vulnerability
    heads: hazards of death, another stroke and intracerebral haemorrhage, and the modified Rankin Scale at six months as a
        proportional-odds model; each sees the prognosis of its time, and the hazards have a few columns of their own

The scale of impairment is anchored by the ASTRAL score (a quarter of a logit for each point), not by the trial, which did not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.dataset import Dataset
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.twins import course
from gemel.twins.design import Design
from gemel.twins.hazard import HazardTwin
from gemel.twins.known_events import KnownEvents
from gemel.twins.prediction import ExpectedCourse, Floats, Prediction, SimulatedCourse
from gemel.twins.programmes.stroke import OUTCOMES, recovery, reperfusion
from gemel.twins.programmes.stroke.columns import EXAMINATION, stroke_design
from gemel.twins.programmes.stroke.rankin import LEVELS, level_loss, level_probabilities, possible_levels
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Individual, Observations

# Logits of a bad outcome for each unit on impairment's logit scale: ASTRAL's 0.25 a point, at 10 of 42 points
# (d logit / d points = 42 / (10 * 32) there).
PER_IMPAIRMENT = 0.25 * 10 * 32 / 42
# Where a counted total is known, how far it says the impairment; the rest is the examination's. Chosen.
COUNTED_WEIGHT = 0.9
# The acute phase, in which severity kills otherwise than later: its time constant. Chosen.
ACUTE_DAYS = 15.0
# Where training starts: rough public numbers. One in five dies within six months, half of them in the first weeks; another
# stroke comes to 3 in 100 and a bleed to 1 in 100, nearly all of them in the first fortnight; half of the living need help.
_START_RATES = (0.17, 0.02, 0.01)  # events a year, late
_START_SLOPES = (
    (2.2, 0.0, 0.0),
    (2.5, 1.5, 0.0),
    (2.5, 1.0, 0.0),
)  # the logarithm of how many times as many early
_START_CUTS = (-2.0, -1.5, -0.5, 0.4, 1.6)
_START_PULL = 0.7
_TARGETS = ("rankin_6_months", "rankin_value_6_months")
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


class StrokeTwin(HazardTwin):
    """See the module.

    Parameters beside those of `HazardTwin` (k outcomes, p columns): prognosis (p,), of the examination in logits of outcome
    and of all else likewise; pull (k, 2), of the prognosis on each hazard in the acute phase and later; after
    (k - 1,), of a recurrence or a bleed on function at six months; cuts (5,).
    """

    # (day, 1) on which an outcome came or (day, 0) by which it had not; (day, 1) by which the patient was home, (day, 0) not
    # yet; scores.
    observables: Mapping[str, str] = {
        **dict.fromkeys((outcome.name for outcome in OUTCOMES), "1"),
        "at_home": "1",
        "nihss": "{score}",
        "modified_rankin_scale": "{score}",
    }
    days: Tensor
    examination: Tensor
    effects: Tensor

    def __init__(self, programme: Programme) -> None:
        super().__init__(programme)
        design = stroke_design(programme)
        outcomes, days = len(programme.outcomes), np.array(programme.times_years) * DAYS_PER_YEAR
        self.register_buffer("days", torch.from_numpy(days).float(), persistent=False)
        self.register_buffer("examination", torch.from_numpy(design.chosen(EXAMINATION)), persistent=False)
        # What the prognosis and a plan add to each hazard is added as it is.
        self.register_buffer("effects", torch.eye(outcomes), persistent=False)
        self.prognosis = nn.Parameter(torch.zeros(len(design.names)))
        self.pull = nn.Parameter(torch.zeros(outcomes, 2))
        self.after = nn.Parameter(torch.zeros(outcomes - 1))
        self.cuts = nn.Parameter(torch.tensor(_START_CUTS))
        with torch.no_grad():
            self.level.copy_(torch.tensor(_START_RATES).log())
            self.slopes.copy_(torch.tensor(_START_SLOPES))
            self.pull[0] = _START_PULL

    @staticmethod
    def make_design(programme: Programme) -> Design:
        """See `HazardTwin`."""
        return stroke_design(programme)

    @staticmethod
    def time_terms(times_years: Floats) -> Floats:
        """(steps, 2): an excess that fades over the first weeks, and one over the first days."""
        middle = (times_years[:-1] + times_years[1:]) / 2 * DAYS_PER_YEAR
        return np.stack([np.exp(-middle / 40.0), np.exp(-middle / 5.0)], axis=1)

    @property
    def middle(self) -> Tensor:
        """(steps,): the middle of each step of the grid, days since the index date."""
        return (self.days[:-1] + self.days[1:]) / 2

    def inputs(
        self, values: NDArray[np.floating], plan: TreatmentPlan = NOTHING_CHANGED
    ) -> dict[str, NDArray[np.float32]]:
        """See `HazardTwin`; and counted, counted_known, shift (n,) and bleeding (n, steps)."""
        column = self.programme.feature_names.index("nihss")
        counted = values[:, column].astype(np.float64)
        known = np.isfinite(counted)
        # A count of 0 or of 42 lies at no end of the scale of logits.
        share = (np.clip(np.where(known, counted, 0.0), 0, 42) + 0.5) / (recovery.MOST_POINTS + 1)
        bleeding = reperfusion.bleeding(plan, self.middle.numpy())
        return {
            **super().inputs(values, plan),
            "counted": np.log(share / (1 - share)).astype(np.float32),
            "counted_known": known.astype(np.float32),
            "shift": np.full(len(values), reperfusion.shift_of_function(plan), np.float32),
            "bleeding": np.tile(bleeding, (len(values), 1)),
        }

    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        """See `HazardTwin`; and levels (n, 6): which levels of the modified Rankin Scale are possible."""
        written = dataset.targets[:, dataset.target_names.index(_TARGETS[1])]
        return {**super().tensors(dataset), "levels": torch.from_numpy(possible_levels(written))}

    def impairment_place(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B,) each: where the first day's impairment lies on its logit scale, and how far people like that differ there."""
        examined = batch["columns"] @ (self.prognosis * self.examination) / PER_IMPAIRMENT
        place = recovery.logit(recovery.typical("impairment_0")) + examined
        counted = COUNTED_WEIGHT * batch["counted_known"]
        place = (1 - counted) * place + counted * batch["counted"]
        return place, recovery.spread("impairment_0") * (1 - counted)

    def prognosis_on(self, batch: Mapping[str, Tensor], days: Tensor) -> Tensor:
        """(B, T): how much worse than a typical stroke a patient stands on each of `days` (T,), in logits."""
        place, _ = self.impairment_place(batch)
        left = recovery.place_on_logit_scale(recovery.impairment(recovery.person_at(place), days))
        usual = recovery.place_on_logit_scale(recovery.impairment(recovery.typical_person(), days))
        vulnerability = batch["columns"] @ (self.prognosis * (1 - self.examination))
        return PER_IMPAIRMENT * (left - usual) + vulnerability[:, None]

    def covariates(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, steps, k): what the prognosis and a plan add to the logarithm of each hazard."""
        prognosis = self.prognosis_on(batch, self.middle)
        acute = torch.exp(-self.middle / ACUTE_DAYS)
        added = (prognosis * acute)[:, :, None] * self.pull[:, 0] + (prognosis * (1 - acute))[
            :, :, None
        ] * self.pull[:, 1]
        none = torch.zeros_like(batch["bleeding"])
        return added + torch.stack([none, none, batch["bleeding"]], dim=-1)

    def level_place(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B,): where a patient without recurrence or bleed stands on the logistic scale of the modified Rankin Scale."""
        return self.prognosis_on(batch, self.days[-1:])[:, 0] + batch["shift"]

    def target_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B,): minus the log-likelihood of the level, or of the levels that are possible, at six months."""
        place = self.level_place(batch) + batch["diseases"][:, -1] @ self.after
        return level_loss(level_probabilities(place, self.cuts), batch["levels"])

    def predict(self, values: NDArray[np.floating], *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """See `Twin`."""
        return self.predict_knowing(values, None, plan)

    def predict_knowing(
        self, values: NDArray[np.floating], known: KnownEvents | None, plan: TreatmentPlan
    ) -> Prediction:
        """What is expected when these events are known of the patients."""
        planned = planned_values(self.programme, values, plan)
        events = course.predict(self, planned, plan, known=known)
        by_state = self.levels_by_state(planned, plan)
        shares = events.state[:, -1] / np.maximum(events.state[:, -1].sum(axis=1, keepdims=True), 1e-12)
        # Of the dead nothing more is asked, but a distribution has to be one.
        shares[shares.sum(axis=1) < 0.5, 0] = 1.0
        levels = np.einsum("ns,nsl->nl", shares, by_state)
        courses = {"nihss": self.impairment_course(planned, plan)}
        return replace(events, targets=rankin_targets(levels), courses=courses)

    def levels_by_state(self, values: NDArray[np.floating], plan: TreatmentPlan) -> Floats:
        """(n, 2^m, 6): probabilities of the levels at six months among the living, by what came until then."""
        batch = {name: torch.from_numpy(array) for name, array in self.inputs(values, plan).items()}
        bits = len(self.programme.outcomes) - 1
        with torch.no_grad():
            place = self.level_place(batch)
            found = []
            for state in range(1 << bits):
                came = torch.tensor([float(state >> i & 1) for i in range(bits)])
                found.append(level_probabilities(place + came @ self.after, self.cuts))
            return torch.stack(found, dim=1).numpy().astype(np.float64)

    def impairment_course(self, values: NDArray[np.floating], plan: TreatmentPlan) -> ExpectedCourse:
        """The NIH Stroke Scale as long as the patient lives: mean and spread over people with the same findings."""
        batch = {name: torch.from_numpy(array) for name, array in self.inputs(values, plan).items()}
        with torch.no_grad():
            place, spread = self.impairment_place(batch)
            courses = [
                recovery.impairment(recovery.person_at(place + float(node) * spread), self.days).numpy()
                for node in _NODES
            ]
        points, weights = np.stack(courses).astype(np.float64), _WEIGHTS / _WEIGHTS.sum()
        mean = np.einsum("q,qnt->nt", weights, points)
        variance = np.einsum("q,qnt->nt", weights, (points - mean) ** 2)
        return ExpectedCourse("{score}", mean, np.sqrt(variance))

    def simulate(
        self,
        values: NDArray[np.floating],
        *,
        seed: int,
        plan: TreatmentPlan = NOTHING_CHANGED,
        paths: int = 1,
    ) -> SimulatedCourse:
        """See `Twin`: events, the level at six months, and the impairment until death."""
        planned = planned_values(self.programme, values, plan)
        events = course.simulate(self, planned, plan, seed=seed, paths=paths)
        random = np.random.default_rng([seed, 1])
        uniform = random.random(len(events.event))
        deviation = random.standard_normal(len(events.event)).astype(np.float32)
        occurred = events.event[:, 1:] == 1
        state = occurred @ (1 << np.arange(occurred.shape[1]))
        whose = np.repeat(np.arange(len(planned)), paths)
        levels = self.levels_by_state(planned, plan)[whose, state]
        level = (uniform[:, None] > np.cumsum(levels, axis=1)[:, :-1]).sum(axis=1).astype(np.float32)
        died = events.event[:, 0] == 1
        level[died] = np.nan
        batch = {name: torch.from_numpy(array) for name, array in self.inputs(planned, plan).items()}
        with torch.no_grad():
            place, spread = (part.repeat_interleave(paths) for part in self.impairment_place(batch))
            theta = recovery.person_at(place + spread * torch.from_numpy(deviation))
            points = recovery.impairment(theta, self.days).numpy()
        times = np.array(self.programme.times_years, np.float32)
        points[died[:, None] & (times[None] >= events.time_years[:, :1])] = np.nan
        return replace(events, targets=dict.fromkeys(_TARGETS, level), courses={"nihss": points})

    def assimilate(self, values: NDArray[np.floating], observations: Observations) -> Individual:
        """See `gemel.twins.programmes.stroke.individual`."""
        from gemel.twins.programmes.stroke.individual import StrokePatients

        return StrokePatients(self, values, observations)


def rankin_targets(levels: Floats) -> dict[str, Floats]:
    """The programme's targets from probabilities of the levels (n, 6): themselves, and the value's mean and deviation."""
    numbers = np.arange(LEVELS)
    mean = levels @ numbers
    variance = levels @ numbers**2 - mean**2
    value = np.stack([mean, np.sqrt(np.maximum(variance, 0.0))], axis=1)
    return {_TARGETS[0]: levels, _TARGETS[1]: value}
