"""Virtual cohorts of SUPPORT2 by the anchored tree, beside other generators: marginals, prediction, survival, speed.

Usage: python benchmarks/synthetic.py [--quick] [--json FILE] [--data DIR] [--holdout FILE ...] [--seeds N] [--no-peers]
Every figure is the median over seeds of noise and sampling. Without a hold-out file, 30 % of the training file is held
out for prediction and for the floor of the marginals; survival is then measured on fits to all of the file.
Peers run in environments of their own (`make peers`), and are left out with the reason where there is none, or where one takes
longer than --peer-seconds of processor time.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _federation import bar, machine, row
from _support2 import FEATURES, Raw, domain, people, training_and_holdout
from _synthetic_scores import (
    DAYS,
    cox,
    levels_of,
    overlap,
    pair_distances,
    prediction,
    survival_curve,
)

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import fit_private, plan_for

HERE = Path(__file__).resolve().parent
DELTA = 1e-5
PEERS = {
    "opendp MST": ("opendp", "_peer_opendp.py", ["{rho}", "mst"]),
    "opendp AIM": ("opendp", "_peer_opendp.py", ["{rho}", "aim"]),
    "mbi AIM": ("mbi", "_peer_mbi_aim.py", ["{rho}", "{seed}"]),
    "SDV copula, no DP": ("sdv", "_peer_sdv.py", []),
}


def ours(training: Raw, *, epsilon: float, seed: int) -> Raw:
    """A virtual table of about as many patients, under (epsilon, 1e-5)-DP. The noise is seeded, for it is a benchmark."""
    columns = domain()
    noise = NoiseSource.for_tests(seed)
    fitted = fit_private(columns, columns.encode_columns(training), epsilon=epsilon, delta=DELTA, noise=noise)
    if fitted.epsilon > epsilon:
        raise SystemExit(f"the fit costs {fitted.epsilon}, more than {epsilon}")
    codes = fitted.model.sample(round(fitted.model.total), seed=seed)
    return columns.decode_columns(codes, seed=seed)


def by_peer(name: str, training: Raw, *, epsilon: float, seed: int, seconds: int) -> Raw | str:
    """What another generator draws from the same public bins in so much processor time; or why it did not."""
    home, script, options = PEERS[name]
    python = HERE.parent / ".peers" / home / "bin" / "python"
    if not python.exists():
        return f"no .peers/{home}: make peers"
    rho = 0.5 / plan_for(domain(), epsilon=epsilon, delta=DELTA).whole_multiplier ** 2
    filled = [option.format(rho=rho, seed=seed) for option in options]
    levels = levels_of(training)
    sizes = {
        **{k: len(f.levels) for k, f in FEATURES.items()},
        "hospdead": 2,
        "death": 2,
        "days": len(DAYS) - 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        table, drawn = Path(folder) / "table.npz", Path(folder) / "drawn.npz"
        sized = {f"size/{k}": np.array(v) for k, v in sizes.items()}
        np.savez(table, **sized, **{f"code/{k}": v for k, v in levels.items()})
        command = [str(python), str(HERE / script), str(table), str(drawn), *filled]
        # Processor time, not the clock's: a busy machine must not decide who is compared.
        command = ["/bin/sh", "-c", f'ulimit -t {seconds}; exec "$@"', "sh", *command]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        if run.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"stopped after {seconds} s of processor time"
        if not drawn.exists():
            told = [line for line in run.stderr.splitlines() if "Error" in line] or ["no word of why"]
            return f"failed: {told[-1][:160]}"
        with np.load(drawn) as loaded:
            return _from_levels({name: loaded[name] for name in sizes}, seed)


def _from_levels(levels: dict[str, Any], seed: int) -> Raw:
    """Values evenly within the bins, as for ours."""
    generator = np.random.default_rng(seed)
    raw: Raw = {name: form.decode(levels[name].astype(np.intp), generator) for name, form in FEATURES.items()}
    raw["hospdead"] = np.where(levels["hospdead"] == 1, "1", "0").astype(object)
    low, high = np.array(DAYS[:-1])[levels["days"]], np.array(DAYS[1:])[levels["days"]]
    days = np.floor(low + generator.random(len(low)) * (high - low)) + 1
    raw["survival"] = (days, levels["death"].astype(int))
    return raw


def measures(virtual: Raw, training: Raw, test: Raw, whole: Raw, virtual_whole: Raw) -> dict[str, float]:
    """All figures of one virtual table; survival from `virtual_whole`, which was fitted to `whole`."""
    distances = pair_distances(training, virtual)
    boosted, linear = prediction(virtual, test)
    (real, interval), (found, its) = cox(whole), cox(virtual_whole)
    return {
        "pairs": float(np.mean(distances)),
        "worst pair": max(distances),
        "AUC boosting": boosted,
        "AUC logistic": linear,
        "Cox": float(np.abs(real - found).mean()),
        "Cox overlap": overlap(interval, its),
        "Kaplan-Meier": float(np.abs(survival_curve(whole) - survival_curve(virtual_whole)).max()),
    }


def median_of(found: list[dict[str, float]]) -> dict[str, float]:
    """The median over seeds of each figure."""
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def utility(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ours at both budgets, with bars, and the peers."""
    training, test, whole, words = training_and_holdout(arguments.data, arguments.holdout)
    rows = [
        row(
            "patients",
            "training, hold-out, all for survival",
            people(training),
            "people",
            more=words,
            holdout=people(test),
            all=people(whole),
        )
    ]
    floor = float(np.mean(pair_distances(training, test)))
    real = prediction(training, test)
    rows += [
        row("pairs", "hold-out (floor)", floor, "total variation"),
        row("AUC boosting", "real", real[0], "AUC"),
        row("AUC logistic", "real", real[1], "AUC"),
    ]
    bars: list[dict[str, Any]] = []
    for epsilon in (3.0, 1.0):
        more = at_budget(epsilon, arguments.seeds, (training, test, whole), floor=floor, real=real)
        rows, bars = rows + more[0], bars + more[1]
    if not arguments.no_peers:
        rows.append(row("limit of a peer's fit", "processor time", arguments.peer_seconds, "s"))
    for name in () if arguments.no_peers else PEERS:
        for epsilon in (3.0, 1.0) if "no DP" not in name else (0.0,):
            rows += of_peer(name, epsilon, arguments, training, test, whole)
    return rows, bars


def at_budget(
    epsilon: float, seeds: int, tables: tuple[Raw, Raw, Raw], *, floor: float, real: tuple[float, float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ours under one budget: medians with the least and the most over seeds, and the bars of that budget."""
    training, test, whole = tables
    found = []
    for seed in range(seeds):
        virtual = ours(training, epsilon=epsilon, seed=seed)
        same = whole is training
        all_of_it = virtual if same else ours(whole, epsilon=epsilon, seed=1_000 + seed)
        found.append(measures(virtual, training, test, whole, all_of_it))
    middle = median_of(found)
    rows = [
        row(
            name,
            f"anchored tree, eps {epsilon:g}",
            value,
            "",
            seeds=seeds,
            spread=[min(f[name] for f in found), max(f[name] for f in found)],
        )
        for name, value in middle.items()
    ]
    ratio = min(middle["AUC boosting"] / real[0], middle["AUC logistic"] / real[1])
    bars = [
        bar(
            f"TSTR over TRTR, the worse of two models, eps {epsilon:g}",
            ratio,
            0.98 if epsilon == 3 else 0.965,
            "min",
        ),
        bar(
            f"Cox, mean absolute difference, eps {epsilon:g}",
            middle["Cox"],
            0.025 if epsilon == 3 else 0.05,
            "max",
        ),
    ]
    if epsilon == 3:
        bars += [
            bar("pairs over the hold-out's floor, eps 3", middle["pairs"] / floor, 1.0, "max"),
            bar("Cox, overlap of intervals, eps 3", middle["Cox overlap"], 0.6, "min"),
        ]
    return rows, bars


def of_peer(
    name: str, epsilon: float, arguments: argparse.Namespace, training: Raw, test: Raw, whole: Raw
) -> list[dict[str, Any]]:
    """A peer's rows, or the one that says why there are none. Its survival is measured on the training part as well."""
    found = []
    started = time.process_time() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    for seed in range(arguments.peer_seeds):
        virtual = by_peer(name, training, epsilon=epsilon or 1.0, seed=seed, seconds=arguments.peer_seconds)
        if isinstance(virtual, str):
            return [row("left out", f"{name}: {virtual}", 0.0, "", epsilon=epsilon)]
        found.append(measures(virtual, training, test, training, virtual))
    spent = time.process_time() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started
    side = f"{name}, eps {epsilon:g}" if epsilon else name
    rows = [row(case, side, value, "", seeds=len(found)) for case, value in median_of(found).items()]
    return [*rows, row("processor time", side, spent / len(found), "s")]


def speeds() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of a fresh process: its memory is its own."""
    run = subprocess.run(
        [sys.executable, str(HERE / "_synthetic_speed.py")], check=True, capture_output=True, text=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    rows = [
        row("decoding", "anchored tree", found["decoding"], "rows/s"),
        row("fit of 10,000 x 25, processor time", "anchored tree", found["processor"], "s"),
    ]
    return rows, [
        bar("fit of 10,000 x 25, seconds", found["fit"], 10, "max"),
        bar("fit of 10,000 x 25, MB (the whole process)", found["memory"], 512, "max"),
        bar("sampling, rows a second", found["sampling"], 100_000, "min"),
    ]


def main() -> None:
    """Measure, print each figure with its bar, and write the result where `--json` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two seeds, no peers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--holdout", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--peer-seeds", type=int, default=1)
    parser.add_argument("--peer-seconds", type=int, default=900)
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.no_peers = 2, True
    rows, bars = speeds()
    if (arguments.data / "clinical" / "support2").is_dir():
        more = utility(arguments)
        rows, bars = rows + more[0], bars + more[1]
    else:
        rows.append(row("SUPPORT2", f"left out: no clinical/support2 below {arguments.data}", 0.0, ""))
    for one in bars:
        print(f"{'met   ' if one['ok'] else 'MISSED'} {one['name']}: {one['value']:g} (bar {one['bar']:g})")
    result = {"name": "synthetic", "machine": machine(), "rows": rows, "bars": bars}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    else:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
