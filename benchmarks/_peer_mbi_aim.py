"""AIM (McKenna, Mullins, Sheldon & Miklau 2022) on mbi 2.0, in 2-way marginals: run by that environment's Python.

Usage: python _peer_mbi_aim.py TABLE.npz OUT.npz RHO SEED. A lab's noise: rounded normals, to compare usefulness only.

At most 40 rounds and a model of 1 MB; after 300 s of processor time one last round spends what is left of the budget.
"""

from __future__ import annotations

import itertools
import math
import sys
import time

import numpy as np

ROUNDS, MEGABYTES, SECONDS = 40, 1.0, 300


def counts(of: dict[str, np.ndarray], clique: tuple[str, ...], sizes: dict[str, int]) -> np.ndarray:
    """The flat table of some columns."""
    shape = [sizes[name] for name in clique]
    flat = np.ravel_multi_index([np.asarray(of[name]) for name in clique], shape)
    return np.bincount(flat, minlength=math.prod(shape)).astype(float)


def error_of(
    pair: tuple[str, ...],
    rows: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    scale: float,
    sizes: dict[str, int],
    sigma: float,
) -> float:
    """How far the model is from the data in a pair, less what noise on its table would add."""
    distance = np.abs(counts(rows, pair, sizes) - scale * counts(drawn, pair, sizes)).sum()
    return float(distance - math.sqrt(2 / math.pi) * sigma * math.prod(sizes[name] for name in pair))


def main() -> None:
    """Read levels, fit, write as many drawn levels."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    from mbi import Domain, LinearMeasurement, estimation, junction_tree

    table, out, rho, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    with np.load(table) as loaded:
        sizes = {name[5:]: int(loaded[name]) for name in loaded.files if name.startswith("size/")}
        rows = {name: loaded[f"code/{name}"] for name in sizes}
    random, domain = np.random.default_rng(seed), Domain.fromdict(sizes)

    def measured(clique: tuple[str, ...], sigma: float) -> LinearMeasurement:
        exact = counts(rows, clique, sizes)
        return LinearMeasurement(exact + np.rint(random.normal(0, sigma, exact.size)), clique, stddev=sigma)

    pairs = list(itertools.combinations(sizes, 2))
    sigma, epsilon, used = math.sqrt(ROUNDS / (1.8 * rho)), math.sqrt(0.8 * rho / ROUNDS), 0.0
    found = [measured((name,), sigma) for name in sizes]
    used += len(sizes) * 0.5 / sigma**2
    fit = estimation.MirrorDescent()
    model = fit.estimate(domain, found, iters=200)
    last = False
    while not last:
        late = time.process_time() > SECONDS
        if late or rho - used < 2 * (0.5 / sigma**2 + epsilon**2 / 8):
            sigma, epsilon, last = math.sqrt(1 / (1.8 * (rho - used))), math.sqrt(0.8 * (rho - used)), True
        used += 0.5 / sigma**2 + epsilon**2 / 8
        drawn = {k: np.asarray(v) for k, v in model.synthetic_data(rows=20_000).to_dict().items()}
        scale = float(np.asarray(model.total)) / 20_000
        cliques = list(model.cliques)
        fits = [
            p
            for p in pairs
            if junction_tree.hypothetical_model_size(domain, [*cliques, p]) <= MEGABYTES * used / rho
            or any(set(p) <= set(c) for c in cliques)
        ]
        errors = np.array([error_of(p, rows, drawn, scale, sizes, sigma) for p in fits])
        weights = np.exp(0.5 * epsilon * (errors - errors.max()))
        chosen = fits[random.choice(len(fits), p=weights / weights.sum())]
        before = np.asarray(model.project(chosen).datavector())
        found.append(measured(chosen, sigma))
        model = fit.estimate(domain, found, iters=200, warm_start=model)
        moved = np.abs(np.asarray(model.project(chosen).datavector()) - before).sum()
        if moved <= sigma * math.sqrt(2 / math.pi) * domain.size(chosen):
            sigma, epsilon = sigma / 2, 2 * epsilon
    model = fit.estimate(domain, found, iters=600, warm_start=model)
    people = len(next(iter(rows.values())))
    np.savez(out, **{k: np.asarray(v) for k, v in model.synthetic_data(rows=people).to_dict().items()})


if __name__ == "__main__":
    main()
