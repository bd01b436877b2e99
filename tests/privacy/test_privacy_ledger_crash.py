"""kill -9 at random instants of concurrent studies: what is on disk covers what was computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("trials", "seed"),
    [(7, 7), pytest.param(167, 11, marks=[pytest.mark.faults, pytest.mark.timeout(3000)])],
    ids=["21 kills", "501 kills"],
)
def test_what_is_on_disk_covers_what_was_computed_whenever_nodes_are_killed(
    tmp_path: Path, trials: int, seed: int
) -> None:
    script = Path(__file__).with_name("crash_loop.py")
    run = subprocess.run(
        [sys.executable, script, tmp_path, "--trials", str(trials), "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=2900,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    print(seen)
    assert seen["kills"] == 3 * trials
    assert seen["computed"] > 0, "not vacuous: they did compute before they died"
