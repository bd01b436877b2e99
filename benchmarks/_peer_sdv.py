"""SDV's Gaussian copula, without differential privacy: run by that environment's Python.

Usage: python _peer_sdv.py TABLE.npz OUT.npz. It gets the same levels as the others, as categories.
"""

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    """Read levels, fit, write as many drawn levels."""
    import pandas as pd
    from sdv.metadata import Metadata
    from sdv.single_table import GaussianCopulaSynthesizer

    with np.load(sys.argv[1]) as loaded:
        sizes = {key[5:]: int(loaded[key]) for key in loaded.files if key.startswith("size/")}
        frame = pd.DataFrame({key: loaded[f"code/{key}"] for key in sizes})
    columns = {key: {"sdtype": "categorical" if size <= 8 else "numerical"} for key, size in sizes.items()}
    metadata = Metadata.load_from_dict({"tables": {"table": {"columns": columns}}})
    synthesizer = GaussianCopulaSynthesizer(metadata)
    synthesizer.fit({"table": frame})
    drawn = synthesizer.sample(num_rows=len(frame))
    drawn = drawn["table"] if isinstance(drawn, dict) else drawn
    np.savez(
        sys.argv[2],
        **{k: np.clip(np.rint(drawn[k].to_numpy(float)), 0, s - 1).astype(int) for k, s in sizes.items()},
    )


if __name__ == "__main__":
    main()
