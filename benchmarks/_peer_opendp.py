"""OpenDP's MST or AIM, sampled with method="sample": run by that environment's Python.

Usage: python _peer_opendp.py TABLE.npz OUT.npz RHO mst|aim
"""

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    """Read levels, fit, write as many drawn levels."""
    import opendp.prelude as dp
    import polars as pl

    dp.enable_features("contrib", "honest-but-curious")
    table, out, rho, name = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
    with np.load(table) as loaded:
        sizes = {key[5:]: int(loaded[key]) for key in loaded.files if key.startswith("size/")}
        rows = {key: loaded[f"code/{key}"].astype(np.int32) for key in sizes}
    context = dp.Context.compositor(
        data=pl.LazyFrame(rows),
        privacy_unit=dp.unit_of(contributions=1),
        privacy_loss=dp.loss_of(rho=rho),
    )
    algorithm = dp.mbi.MST() if name == "mst" else dp.mbi.AIM()
    keys = {key: list(range(size)) for key, size in sizes.items()}
    # Not quite all: the library's own sum of budgets is off in the last digit.
    query = context.query(rho=0.999 * rho)
    released = query.contingency_table(keys=keys, algorithm=algorithm).release()
    drawn = released.synthesize(rows=len(next(iter(rows.values()))), method="sample")
    np.savez(out, **{key: drawn[key].to_numpy() for key in sizes})


if __name__ == "__main__":
    main()
