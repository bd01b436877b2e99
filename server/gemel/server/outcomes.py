"""What closes a task: the next twin, sums, statistics, a validated loss and whether training ends, who is good for whom."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gemel.core.arrays import Arrays
from gemel.core.canonical import sha256_hex
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.core.trajectory_plan import is_trajectory
from gemel.privacy.secure_aggregation import plan
from gemel.privacy.statistics import estimates, sum_tables
from gemel.server.collecting import Collected
from gemel.server.cross_site import matrix
from gemel.server.early_stopping import stops, validated_loss
from gemel.server.global_twin import GlobalTwin
from gemel.server.home import RunFolder
from gemel.server.masked import mean_of
from gemel.server.run_state import RunState
from gemel.server.strategy import Update
from gemel.server.synthesis import synthesised
from gemel.server.visits import followed


class Outcomes:
    """Computes from releases only, so it costs no privacy. Twice the same releases give the same bytes."""

    def __init__(self, study: Study, programme: Programme, run: RunFolder, state: RunState) -> None:
        self._study, self._programme, self._run, self._state = study, programme, run, state
        self._weights: dict[str, float] = {}

    def of(self, collected: Collected, twin: GlobalTwin) -> dict[str, Any]:
        """What else the entry of a task says, after its results are on disk."""
        task = collected.task
        if task.startswith("train/"):
            return self._moved(collected, twin)
        facts: dict[str, Any] = {}
        if collected.total is not None:
            facts["sum_sha256"] = sha256_hex(self._run.save_sum(task, collected.total))
        if task == "describe":
            facts["statistics_sha256"] = sha256_hex(self._run.save_statistics(self._described(collected)))
        if task.startswith("validate/"):
            facts |= self._validated(collected, twin)
        if task in ROUNDS:
            facts["synthesis_sha256"] = sha256_hex(
                self._run.save_synthesis(task, self._synthesised(collected))
            )
        if is_trajectory(task):
            found = followed(
                self._run, self._study, self._programme, task, sorted(collected.replies), weight=self.weight
            )
            facts["synthesis_sha256"] = sha256_hex(self._run.save_synthesis(task, found))
        return facts

    def after(self, task: str) -> None:
        """What follows from a task once its entry is there: that training ends, or whose update is good for whom."""
        if task.startswith("validate/"):
            losses = [entry["loss"] for entry in self._state.tasks if "loss" in entry]
            rest = [t for t in self._state.remaining() if t.startswith(("train/", "validate/"))]
            if rest and stops(losses, self._study.pace):
                self._state.data["early_stop"] = {"after": task, "skipped": rest}
        crossed = [t for t in self._study.tasks if t.startswith("cross/")]
        if crossed and task == crossed[-1]:
            content = self._run.save_result("cross_site", {"rows": self._cross_site()})
            self._state.tasks[-1]["matrix_sha256"] = sha256_hex(content)

    def last_update(self, site: str) -> str | None:
        """The round of a site's last update that counted."""
        for entry in reversed(self._state.tasks):
            if entry["task"].startswith("train/") and site in _sites(entry):
                return str(entry["task"])
        return None

    def weight(self, site: str) -> float:
        """A site's weight: its released, noisy count of patients, at least the study's floor, and that without a count."""
        if site not in self._weights:
            floor, count = float(self._study.minimum_patients), self._state.entry("count")
            self._weights[site] = floor
            if count is not None and site in _sites(count):
                self._weights[site] = max(floor, float(self._run.map_release("count", site)["patients"][0]))
        return self._weights[site]

    def _moved(self, collected: Collected, twin: GlobalTwin) -> dict[str, Any]:
        if collected.total is not None:
            return twin.move_by_mean(mean_of(collected.total))
        updates = [
            Update(
                site=site,
                arrays=self._run.map_release(collected.task, site),
                weight=self.weight(site),
                started_from=twin.model,
            )
            for site in sorted(collected.replies)
        ]
        return twin.move(updates)

    def _validated(self, collected: Collected, twin: GlobalTwin) -> dict[str, Any]:
        """The loss that the held-out patients of all hospitals that answered saw, with the error of its noise."""
        if collected.total is not None:
            tables = [collected.total]
        else:
            tables = [self._run.map_release(collected.task, site) for site in sorted(collected.replies)]
        sigma = self._noise_of_metrics() * math.sqrt(len(collected.replies))
        score = validated_loss(tables, self._programme, twin.model, noise_sigma=sigma)
        return {"loss": score.value, "loss_error": score.standard_error}

    def _synthesised(self, collected: Collected) -> Arrays:
        """What a round led to, from the sums of this one and of those before it."""
        counted = {entry["task"]: _sites(entry) for entry in self._state.tasks if entry["task"] in ROUNDS}
        counted[collected.task] = sorted(collected.replies)
        return synthesised(self._run, self._study, self._programme, counted)

    def _cross_site(self) -> list[dict[str, Any]]:
        """Each hospital's last update at every hospital."""
        tables, models = {}, {}
        for entry in self._state.tasks:
            owner = entry["task"].removeprefix("cross/")
            if owner == entry["task"] or entry.get("skipped"):
                continue
            tables[owner] = {site: self._run.map_release(entry["task"], site) for site in _sites(entry)}
            models[owner] = self._run.map_release(str(self.last_update(owner)), owner)
        return matrix(tables, models, self._programme, noise_sigma=self._noise_of_metrics())

    def _noise_of_metrics(self) -> float:
        """The standard deviation of the noise that one hospital adds to a cell."""
        return plan.as_added(self._study).privacy.metrics_noise_multiplier

    def _described(self, collected: Collected) -> list[dict[str, Any]]:
        """The study's statistics over all hospitals that answered, with error bars that hold their noise."""
        requests = self._study.statistics
        if collected.total is not None:
            tables = [collected.total]
        else:
            tables = [self._run.map_release(collected.task, site) for site in sorted(collected.replies)]
        results = estimates(requests, sum_tables(requests, tables), hospitals=len(collected.replies))
        told: list[dict[str, Any]] = msgspec.to_builtins(results)
        return told


def _sites(entry: dict[str, Any]) -> list[str]:
    return [contribution["site"] for contribution in entry["contributions"]]
