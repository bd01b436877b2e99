"""Rounds of synthesis: what a coordinator makes of them is made again by whoever verifies, and checked by every node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import certificate, missing, start
from light_nodes import light_federation

from gemel.cli.demo.federation import Federation
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.study import AggregationPlan, Masking, Study
from gemel.core.synthesis_plan import ROUNDS
from gemel.server import outcomes
from gemel.server.home import RunFolder
from gemel.server.run_check import check_run

MakeStudy = Callable[..., Study]
Arrays = dict[str, np.ndarray]
_MASKED = AggregationPlan(masking=Masking.SECURE)


def _lies(monkeypatch: pytest.MonkeyPatch, task: str, lie: Callable[[Arrays], Arrays]) -> None:
    """From here on the coordinator makes something else of that round, and certifies and sends it."""
    honest = outcomes.synthesised

    def synthesised(run: RunFolder, study: Study, programme: Any, counted: dict[str, Any]) -> Arrays:
        made = dict(honest(run, study, programme, counted))
        return lie(made) if list(counted)[-1] == task else made

    monkeypatch.setattr(outcomes, "synthesised", synthesised)


def _no_pairs(made: Arrays) -> Arrays:
    return {**made, "parents": np.full_like(made["parents"], -1)}


def _other_levels(made: Arrays) -> Arrays:
    return {**made, "levels": made["levels"] + (np.arange(made["levels"].size) == 0)}


def _less_noise(made: Arrays) -> Arrays:
    return {**made, "multiplier": made["multiplier"] - 1}


def _other_tables(made: Arrays) -> Arrays:
    return {**made, "tables": made["tables"] + (np.arange(made["tables"].size) == 3)}


def _fewer_hospitals(made: Arrays) -> Arrays:
    return {**made, "hospitals": made["hospitals"] - 1}


@pytest.mark.parametrize(
    ("task", "lie"),
    [
        (ROUNDS[0], _other_levels),
        (ROUNDS[1], _no_pairs),
        (ROUNDS[1], _other_levels),
        (ROUNDS[1], _less_noise),
        (ROUNDS[2], _no_pairs),
        (ROUNDS[2], _other_tables),
        (ROUNDS[2], _fewer_hospitals),
    ],
)
def test_what_does_not_follow_from_the_releases_is_found_though_nodes_and_hashes_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, lie: Callable[[Arrays], Arrays]
) -> None:
    federation = light_federation(tmp_path)
    _lies(monkeypatch, task, lie)
    coordinator, run, _ = federation.start()
    coordinator.run()
    document = run.certificate
    assert document is not None
    check_certificate(document)
    with pytest.raises(GemelError, match=f"^GEM513 .*{task}: what it led to"):
        check_run(document, run.folder)


def test_a_tree_that_was_changed_under_masks_is_found(
    federation: Federation, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(aggregation=_MASKED)
    _lies(monkeypatch, ROUNDS[1], _no_pairs)
    coordinator, run, _ = start(federation, study)
    coordinator.run()
    document = run.certificate
    assert document is not None
    check_certificate(document)
    with pytest.raises(GemelError, match=f"^GEM513 .*{ROUNDS[1]}: what it led to"):
        check_run(document, run.folder)


def _a_cycle(made: Arrays) -> Arrays:
    return {**made, "parents": np.roll(np.arange(made["parents"].size), 1)}


def _more_people_than_there_are(made: Arrays) -> Arrays:
    return {**made, "levels": np.full_like(made["levels"], 10**13)}


@pytest.mark.parametrize(
    ("aggregation", "after", "lie", "refused"),
    [
        (AggregationPlan(), ROUNDS[0], _more_people_than_there_are, ROUNDS[1]),
        (AggregationPlan(), ROUNDS[1], _a_cycle, ROUNDS[2]),
        (_MASKED, ROUNDS[1], _a_cycle, ROUNDS[2]),
    ],
)
def test_nodes_refuse_what_no_round_leads_to_and_charge_nothing_for_it(
    federation: Federation,
    make_study: MakeStudy,
    monkeypatch: pytest.MonkeyPatch,
    aggregation: AggregationPlan,
    after: str,
    lie: Callable[[Arrays], Arrays],
    refused: str,
) -> None:
    study = make_study(aggregation=aggregation)
    _lies(monkeypatch, after, lie)
    coordinator, run, _ = start(federation, study)
    with pytest.raises(GemelError, match="GEM501|GEM322"):
        coordinator.run()
    stopped = certificate(run)["stopped_in"]
    assert stopped["task"] == refused
    assert missing(stopped) == dict.fromkeys(study.sites, "GEM720")
    for node in federation.nodes.values():
        with node.open_ledger() as ledger:
            charged = [entry.task for entry in ledger.entries() if entry.kind == "begun"]
        assert charged[-1] == after
