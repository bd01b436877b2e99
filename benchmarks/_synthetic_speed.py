"""Seconds and memory of a fit of 10,000 patients of 25 columns, rows a second: a process of its own, for its memory.

Usage: python _synthetic_speed.py, which prints JSON. The patients are made up: every column goes with one hidden number.
"""

from __future__ import annotations

import json
import resource
import time

import numpy as np
from _support2 import FEATURES, domain

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import fit_private
from gemel.synthetic.columns import Role
from gemel.synthetic.domain import table_domain


def main() -> None:
    """Fit, draw, decode."""
    generator = np.random.default_rng(0)
    base = domain()
    extra = [(f"{name}_again", FEATURES[name], Role.FEATURE) for name in ("age", "crea", "hrt")]
    columns = table_domain([*((c.name, c.form, c.role) for c in base.columns), *extra])
    mood = generator.random(10_000)
    codes = {
        name: np.minimum((size * (0.6 * mood + 0.4 * generator.random(10_000))).astype(np.intp), size - 1)
        for name, size in columns.sizes.items()
    }
    started, processor = time.perf_counter(), time.process_time()
    fitted = fit_private(columns, codes, epsilon=3.0, delta=1e-5, noise=NoiseSource.for_tests(0))
    fit, processor = time.perf_counter() - started, time.process_time() - processor
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    drawn = fitted.model.sample(200_000, seed=1)
    sampling = 200_000 / (time.perf_counter() - started)
    started = time.perf_counter()
    columns.decode_columns(drawn, seed=1)
    decoding = 200_000 / (time.perf_counter() - started)
    print(
        json.dumps(
            {"fit": fit, "processor": processor, "memory": memory, "sampling": sampling, "decoding": decoding}
        )
    )


if __name__ == "__main__":
    main()
