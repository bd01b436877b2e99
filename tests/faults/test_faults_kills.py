"""kill -9 of every process of a deployed consortium, at random instants of every phase.

The full form makes `GEMEL_KILLS` kills (200 when not told); a short one is part of the plain suite. After each study: a
true certificate, nothing counted twice, twins that follow from the releases it names, ledgers that cover what left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from consortium import Consortium, running
from kills import Killer, report
from verdict import judge, missing

from gemel.core.synthesis_plan import ROUNDS

SEED = int(os.environ.get("GEMEL_SEED", "5"))
KILLS = int(os.environ.get("GEMEL_KILLS", "200"))
LONGEST_S = 1100.0


def _kill_through_a_study(
    live: Consortium, killer: Killer, name: str, *, rounds: int, timeout_s: float
) -> int:
    """Run one study while processes are killed; returns how many contributions were missed."""
    study = live.study(name, rounds=rounds, round_timeout_s=60.0)
    run = live.submit(study)
    with killer.killing():
        live.follow(study, run, watch=killer.watch, timeout_s=timeout_s)
    return sum(len(who) for who in missing(judge(live, study, run)).values())


@pytest.mark.timeout(240)
def test_a_few_kills_cost_neither_the_certificate_nor_a_ledger(
    write_export: Callable[..., Path], tmp_path: Path, figures: list[str]
) -> None:
    with running(tmp_path / "made", write_export, sites=("alpha", "beta", "gamma")) as live:
        killer = Killer(live, seed=SEED, every_s=3.0, most=8)
        _kill_through_a_study(live, killer, "a few kills", rounds=4, timeout_s=180)
    assert len(killer.kills) >= 3
    figures.append(f"short form: {report(killer.kills)}")


@pytest.mark.faults
@pytest.mark.timeout(LONGEST_S + 1000)
def test_two_hundred_kills_cost_neither_a_certificate_nor_a_ledger(
    live: Consortium, figures: list[str]
) -> None:
    killer = Killer(live, seed=SEED, every_s=2.0, most=KILLS)
    started, studies, missed = time.monotonic(), 0, 0
    while len(killer.kills) < KILLS and time.monotonic() - started < LONGEST_S:
        missed += _kill_through_a_study(live, killer, f"kills {studies}", rounds=10, timeout_s=900)
        studies += 1
    seconds = time.monotonic() - started
    figures.append(f"{studies} studies in {seconds:.0f} s, {missed} updates missed, {report(killer.kills)}")
    assert len(killer.kills) >= KILLS, f"{len(killer.kills)} kills in {seconds:.0f} s"
    hit = {kill.phase for kill in killer.kills}
    assert {"hello", "count", "train", "evaluate", *ROUNDS} <= hit or KILLS < 100


@pytest.mark.faults
@pytest.mark.timeout(LONGEST_S)
def test_kills_in_the_rounds_whose_tables_were_chosen_cost_neither_a_certificate_nor_a_ledger(
    live: Consortium, figures: list[str]
) -> None:
    """`judge` makes the tree again from the releases, and reads each ledger: every round charged once."""
    killer = Killer(live, seed=SEED, every_s=1.0)
    started, studies, missed = time.monotonic(), 0, 0
    while not _all_struck(killer) and time.monotonic() - started < LONGEST_S / 2:
        killer.phases = (ROUNDS[1 + studies % 2],)
        killer.most = len(killer.kills) + 4  # so that a study may end
        missed += _kill_through_a_study(live, killer, f"choices {studies}", rounds=1, timeout_s=300)
        studies += 1
    figures.append(f"chosen rounds: {studies} studies, {missed} missed, {report(killer.kills)}")
    assert _all_struck(killer)


def _all_struck(killer: Killer) -> bool:
    """Whether who computes, who speaks for a hospital and who adds up were all killed, and in both rounds somebody."""
    kinds = {kill.kind for kill in killer.kills}
    computes = {"worker", "task", "study's worker"}
    adds_up = {"ServerApp", "service", "coordinator's supervisor"}
    struck = "node" in kinds and kinds & computes and kinds & adds_up
    return bool(struck) and {kill.phase for kill in killer.kills} == set(ROUNDS[1:])
