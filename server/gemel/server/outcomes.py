"""What closes a task: the next twin, sums, statistics, a validated loss and whether training ends, who is good for whom."""

from __future__ import annotations

from typing import Any

import msgspec

from gemel.core.canonical import sha256_hex
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.statistics import estimates, sum_tables
from gemel.server.collecting import Collected
from gemel.server.global_twin import GlobalTwin
from gemel.server.home import RunFolder
from gemel.server.masked import mean_of
from gemel.server.run_state import RunState
from gemel.server.strategy import Update


class Outcomes:
    """Computes from releases only, so it costs no privacy. Twice the same releases give the same bytes."""

    def __init__(self, study: Study, programme: Programme, run: RunFolder, state: RunState) -> None:
        self._study, self._programme, self._run, self._state = study, programme, run, state

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
        return facts

    def weight(self, site: str) -> float:
        """A site's weight: its released count, at least the study's floor."""
        return self._run.weight_of(site, floor=float(self._study.minimum_patients))

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
