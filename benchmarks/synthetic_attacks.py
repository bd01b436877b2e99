"""Attacks on virtual cohorts of SUPPORT2 (epsilon 3) and on the mechanism that measures them, beside their controls.

Usage: python benchmarks/synthetic_attacks.py [--quick] [--part PART] [--json FILE] [--data DIR] [--seeds N] [--hold-out FILE ...]
Needs clinical/support2 under the data folder; `--hold-out` names a file of people who were kept out, else some of the first are.
Real people are open data here: a hospital's own numbers of this kind stay inside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _federation import bar, machine, row
from _support2 import Raw, people, take, training_and_holdout
from _support2 import domain as support2

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import fit_private
from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report import Evidence, Finding
from gemel.synthetic.report.attacks import FULL, QUICK, attack_findings, histories, mechanism_findings
from gemel.synthetic.trajectory.histories import Histories
from gemel.synthetic.trajectory.markov import fit_markov
from gemel.synthetic.trajectory.network_model import fit_network

NAME = "synthetic_attacks"
HERE = Path(__file__).resolve().parent
EPSILON, DELTA = 3.0, 1e-5
DRAWS = 5
SECRETS = ("hospdead", "survival, event", "ca", "dzgroup")


def draws_of(domain: Domain, training: Raw, *, epsilon: float) -> list[Raw]:
    """Cohorts as large as the training set, drawn from one model that was fitted under epsilon with secure noise."""
    codes = domain.encode_columns(training)
    fitted = fit_private(domain, codes, epsilon=epsilon, delta=DELTA, noise=NoiseSource.secure())
    return [
        domain.decode_columns(fitted.model.sample(people(training), seed=seed), seed=seed)
        for seed in range(DRAWS)
    ]


def on_cohorts(arguments: argparse.Namespace) -> Iterator[tuple[int, Finding]]:
    """Every attack on a model for each split; shadow cohorts with the first."""
    training, holdout, everybody, _ = training_and_holdout(arguments.data, arguments.hold_out)
    domain, size = support2(), people(training)

    def again(codes: Codes, number: int) -> Codes:
        noise = NoiseSource.secure()
        fitted = fit_private(domain, codes, epsilon=arguments.epsilon, delta=DELTA, noise=noise)
        return fitted.model.sample(size, seed=number)

    for seed in range(arguments.seeds):
        if seed > 0 and training is not everybody:
            # Another split of the same people for each seed; a hold-out file stays what it is.
            order = np.random.default_rng(seed).permutation(people(everybody))
            training, holdout = (take(everybody, part) for part in np.split(order, [len(order) * 7 // 10]))
        for finding in attack_findings(
            Evidence(domain, training, holdout),
            draws_of(domain, training, epsilon=arguments.epsilon),
            secrets=SECRETS,
            effort=QUICK if arguments.quick else FULL,
            seed=seed,
            generator=again if seed == 0 else None,
        ):
            yield seed, finding


def on_mechanism(*, quick: bool) -> Iterator[Finding]:
    """Canaries, their control, and planted faults, over the same columns."""
    effort = QUICK if quick else FULL
    return mechanism_findings(support2(), epsilon=EPSILON, delta=DELTA, effort=effort)


def on_trajectories(*, quick: bool) -> Iterator[Finding]:
    """Membership in models of visits of rwm5yr, a quarter of whose persons is held out."""
    from _panels import rwm5yr

    everybody = rwm5yr()
    order = np.random.default_rng(0).permutation(len(everybody))
    training, holdout = (everybody.take(part) for part in np.split(order, [3 * len(order) // 4]))

    def markov(people: Histories, _number: int) -> histories.Likelihood:
        noise = NoiseSource.secure()
        return fit_markov(people, epsilon=EPSILON, delta=DELTA, noise=noise).log_likelihood

    def network(people: Histories, _number: int) -> histories.Likelihood:
        noise, about = NoiseSource.secure(), len(training)
        fitted = fit_network(people, patients=about, epsilon=EPSILON, delta=DELTA, noise=noise)
        return fitted.log_likelihood

    candidates = histories.HistoryCandidates.of(training, holdout, seed=0)
    for name, trainer, shadows in (("tables", markov, 16), ("network", network, 0 if quick else 4)):
        model = trainer(training, 0)
        yield from histories.attack(candidates, model, name=name)
        if shadows:
            yield from histories.attack_with_shadows(
                candidates, model, trainer, name=name, shadows=shadows, seed=0
            )
    yield from histories.control(candidates)


def bars_of(mechanics: list[Finding], cohorts: list[Finding]) -> list[dict[str, Any]]:
    """Of the parts that were run."""
    return [*(_of_mechanism(mechanics) if mechanics else ()), *(_of_cohorts(cohorts) if cohorts else ())]


def _of_mechanism(mechanics: list[Finding]) -> list[dict[str, Any]]:
    planted = [f for f in mechanics if "planted fault" in f.measure]
    sound = [f for f in mechanics if not f.control]
    quiet = [f for f in mechanics if f.control and f not in planted]
    bounds = [f.value or 0.0 for f in sound if f.low is not None]
    return [
        bar("canaries: lower bound of epsilon, at most the claim", max(bounds), EPSILON, "max"),
        bar("canaries, a third of the noise: share of the checks that see it", _passed(quiet), 1.0, "min"),
        bar("the real mechanism: share of its checks that hold", _passed(sound), 1.0, "min"),
        bar("planted faults caught, of 16", sum(f.passed for f in planted), len(planted), "min"),
    ]


def _of_cohorts(cohorts: list[Finding]) -> list[dict[str, Any]]:
    controls = [f for f in cohorts if f.control]
    attacks = [f for f in cohorts if not f.control]
    return [
        bar("positive controls caught, share", _passed(controls), 1.0, "min"),
        bar("attacks on cohorts and trajectories that fail a threshold", _failed(attacks), 0, "max"),
    ]


def _passed(findings: list[Finding]) -> float:
    return float(np.mean([f.passed for f in findings]))


def _failed(findings: list[Finding]) -> int:
    return sum(f.verdict == "fail" for f in findings)


def line(finding: Finding) -> str:
    """One row for people."""
    numbers = " ".join("-" if x is None else f"{x:.3f}" for x in (finding.value, finding.low, finding.high))
    side = "control" if finding.control else finding.block
    return f"{finding.verdict:<10} {side:<12} {finding.measure}: {numbers} ({finding.threshold}) {finding.detail}"


def _everything(arguments: argparse.Namespace) -> Iterator[tuple[str, Finding]]:
    if arguments.part in ("mechanism", "all"):
        yield from (("mechanism", finding) for finding in on_mechanism(quick=arguments.quick))
    if arguments.part in ("trajectories", "all"):
        yield from (("trajectories", finding) for finding in on_trajectories(quick=arguments.quick))
    if arguments.part in ("cohorts", "all"):
        yield from ((f"split {seed}", finding) for seed, finding in on_cohorts(arguments))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="300 attacks, one seed")
    parser.add_argument("--part", choices=("all", "mechanism", "trajectories", "cohorts"), default="all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument(
        "--hold-out", type=Path, nargs="*", default=[], help="tables of people who were kept out"
    )
    parser.add_argument("--seeds", type=int, help="splits and cohorts (5; 1 with --quick)")
    parser.add_argument(
        "--epsilon", type=float, default=EPSILON, help="of the cohorts; huge for a look without privacy"
    )
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or (1 if arguments.quick else 5)
    started = time.monotonic()
    found: list[tuple[str, Finding]] = []
    for side, finding in _everything(arguments):
        found.append((side, finding))
        print(f"{time.monotonic() - started:5.0f} s, {side}: {line(finding)}", flush=True)
    print(f"{time.process_time():.0f} s of one processor")
    mechanics = [f for side, f in found if side == "mechanism"]
    bars = bars_of(mechanics, [f for side, f in found if side != "mechanism"])
    for one in bars:
        sign = ">=" if one["direction"] == "min" else "<="
        print(f"bar {one['name']}: {one['value']} {sign} {one['bar']} {'ok' if one['ok'] else 'MISSED'}")
    rows = [
        row(f"{f.block}: {f.measure}", side, f.value, "", low=f.low, high=f.high, baseline=f.baseline)
        | {"verdict": str(f.verdict), "control": f.control, "detail": f.detail}
        for side, f in found
        if f.value is not None
    ]
    if arguments.json is not None:
        result = {"name": NAME, "machine": machine(), "rows": rows, "bars": bars}
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0 if all(one["ok"] for one in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
