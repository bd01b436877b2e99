"""The whole report on virtual cohorts of SUPPORT2: every row, and how long each part takes.

Usage: python benchmarks/synthetic_report.py [--quick] [--json FILE] [--data DIR] [--hold-out FILE ...] [--epsilon E] [--draws N]
The bar is 600 s for the full report: 2,000 attacks of each kind on five draws, 16 shadow cohorts, 300 releases of each kind with and
without a canary, all planted faults. Needs clinical/support2 under the data folder; `--hold-out` names files of people who were
kept out, else some of the first are. SUPPORT2 is open data; a hospital's own rows of this kind stay inside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _federation import bar, machine, row
from _support2 import domain as support2
from _support2 import people, training_and_holdout

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import PrivateFit, fit_private
from gemel.synthetic.domain import Codes
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.report import Evidence, Finding, Source, Statement, make
from gemel.synthetic.report.attacks import FULL, QUICK

NAME = "synthetic_report"
HERE = Path(__file__).resolve().parent
EPSILON, DELTA = 3.0, 1e-5
MOST_SECONDS = 600


class Clock:
    """Seconds by part: what passes before a row is heard is that row's part's."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.processor: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.start()

    def start(self) -> None:
        """Count from now."""
        self.last, self.last_processor = time.monotonic(), time.process_time()

    def hear(self, finding: Finding) -> None:
        """Count the time since the last row, and print this one."""
        self.findings.append(finding)
        self.pass_to(finding.block)
        print(f"{sum(self.seconds.values()):5.0f} s  {line(finding)}", flush=True)

    def pass_to(self, part: str) -> None:
        """Count the time since the last row to a part."""
        self.seconds[part] += time.monotonic() - self.last
        self.processor[part] += time.process_time() - self.last_processor
        self.start()


def line(finding: Finding) -> str:
    """One row for people."""
    numbers = " ".join("-" if x is None else f"{x:.3f}" for x in (finding.value, finding.low, finding.high))
    side = f"{finding.block} control" if finding.control else finding.block
    return f"{finding.verdict:<15} {side:<22} {finding.measure}: {numbers} ({finding.threshold}) {finding.detail}"


def source_of(fitted: PrivateFit, size: int, *, draws: int) -> Source:
    """The fitted model as the report takes it; an attacker may fit another one at the same price."""
    promise = PrivacyStatement(
        epsilon=fitted.epsilon,
        delta=fitted.delta,
        mechanisms=fitted.mechanisms,
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure",
    )

    def again(codes: Codes, seed: int) -> Codes:
        noise = NoiseSource.secure()
        fit = fit_private(fitted.plan.domain, codes, epsilon=fitted.epsilon, delta=DELTA, noise=noise)
        return fit.model.sample(size, seed=seed)

    return Source(
        "0" * 64,
        "SUPPORT2",
        statement=Statement(promise, promise, sites_of_a_person=2),
        queries=fitted.model.queries,
        tables=fitted.tables,
        source_patients=fitted.model.total,
        seeds=tuple(range(draws)),
        generator=again,
    )


def measure(arguments: argparse.Namespace) -> Clock:
    """Fit, draw and report."""
    clock = Clock()
    training, holdout, _, words = training_and_holdout(arguments.data, arguments.hold_out)
    print(f"{people(training)} patients, {people(holdout)} kept out ({words})")
    domain, size = support2(), people(training)
    clock.start()
    codes = domain.encode_columns(training)
    fitted = fit_private(domain, codes, epsilon=arguments.epsilon, delta=DELTA, noise=NoiseSource.secure())
    draws = [
        domain.decode_columns(fitted.model.sample(size, seed=seed), seed=seed)
        for seed in range(arguments.draws)
    ]
    clock.pass_to("fit and draws")
    make(
        domain,
        draws,
        source_of(fitted, size, draws=arguments.draws),
        evidence=Evidence(domain, training, holdout, open_data=True),
        effort=QUICK if arguments.quick else FULL,
        heard=clock.hear,
    )
    clock.pass_to("figures")
    return clock


def bars_of(clock: Clock) -> list[dict[str, Any]]:
    """What the report has to be: fast, and with attacks that can succeed."""
    controls = [finding for finding in clock.findings if finding.control]
    caught = sum(finding.passed for finding in controls) / max(len(controls), 1)
    return [
        bar("seconds for the whole report", sum(clock.seconds.values()), MOST_SECONDS, "max"),
        bar("controls and planted faults caught, share", caught, 1.0, "min"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="300 attacks of each kind")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument(
        "--hold-out", type=Path, nargs="*", default=[], help="tables of people who were kept out"
    )
    parser.add_argument("--epsilon", type=float, default=EPSILON)
    parser.add_argument("--draws", type=int, default=5)
    clock = measure(arguments := parser.parse_args())
    for part, seconds in clock.seconds.items():
        print(f"{seconds:7.1f} s, of one processor {clock.processor[part]:6.1f} s  {part}")
    print(f"{sum(clock.processor.values()):.0f} s of one processor; the rest is waiting for it")
    verdicts = Counter(str(finding.verdict) for finding in clock.findings)
    print(f"{len(clock.findings)} rows: " + ", ".join(f"{n} {v}" for v, n in verdicts.items()))
    for finding in clock.findings:
        if finding.verdict in ("fail", "not tested"):
            print(f"  {line(finding)}")
    bars = bars_of(clock)
    for one in bars:
        sign = ">=" if one["direction"] == "min" else "<="
        print(f"bar {one['name']}: {one['value']} {sign} {one['bar']} {'ok' if one['ok'] else 'MISSED'}")
    rows = [row(f"seconds: {part}", "report", seconds, "s") for part, seconds in clock.seconds.items()]
    rows += [
        row(f"seconds of one processor: {part}", "report", seconds, "s")
        for part, seconds in clock.processor.items()
    ]
    rows += [
        row(f"{f.block}: {f.measure}", "report", f.value, "", low=f.low, high=f.high, baseline=f.baseline)
        | {"verdict": str(f.verdict), "control": f.control, "detail": f.detail}
        for f in clock.findings
        if f.value is not None
    ]
    if arguments.json is not None:
        result = {"name": NAME, "machine": machine(), "rows": rows, "bars": bars}
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0 if all(one["ok"] for one in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
