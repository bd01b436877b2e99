"""OpenDP's MST or AIM, sampled with method="sample": run by that environment's Python.

Usage: python _peer_opendp.py TABLE.npz OUT.npz RHO mst|aim

MST of 0.16 divides what it has for choosing edges by their number and adds the parts up again, rounding up. With 23 columns that
comes out above the whole in the last digit, and its own odometer refuses ("insufficient budget for query"). It is told a
billionth less than the whole. AIM has the bounds of the other AIM here: pairs, a model of 1 MB, 40 rounds.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

ROUNDS, MEGABYTES = 40, 1.0


def leave_room_for_rounding() -> None:
    """Let MST choose its edges for a billionth less than it has for that."""
    from opendp.extras.mbi import _mst

    choose = _mst._make_mst_select

    def choose_for_less(*arguments: Any, d_out: float, **named: Any) -> Any:
        return choose(*arguments, d_out=d_out * (1 - 1e-9), **named)

    _mst._make_mst_select = choose_for_less


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
    leave_room_for_rounding()
    bounded = dp.mbi.AIM(queries=2, max_size=MEGABYTES, rounds=ROUNDS)
    algorithm = dp.mbi.MST() if name == "mst" else bounded
    keys = {key: list(range(size)) for key, size in sizes.items()}
    # Not quite all: the library's own sum of budgets is off in the last digit.
    query = context.query(rho=0.999 * rho)
    released = query.contingency_table(keys=keys, algorithm=algorithm).release()
    drawn = released.synthesize(rows=len(next(iter(rows.values()))), method="sample")
    # Its tables have a cell for "none of the keys" too, and rows drawn from it are empty: they get another row's level.
    random = np.random.default_rng(0)
    levels = {}
    for key in sizes:
        column = drawn[key]
        there = column.drop_nulls().to_numpy()
        levels[key] = np.where(
            column.is_null(), random.choice(there, len(column)), column.fill_null(0).to_numpy()
        )
    np.savez(out, **levels)


if __name__ == "__main__":
    main()
