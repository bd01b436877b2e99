"""A division of synthesis for studies whose programme does not matter, and what a coordinator may choose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemel.core.synthesis_plan import ROUNDS, Measurement, SynthesisPlan
from gemel.synthetic.domain import Domain
from gemel.synthetic.protocol import declared_choice

ANY_SYNTHESIS = SynthesisPlan(
    levels=Measurement(tables=4, share=0.2),
    scores=Measurement(tables=6, share=0.2),
    tables=Measurement(tables=1, share=0.6),
)


def a_choice(domain: Domain, task: str = ROUNDS[2], *, levels: int = 1000) -> dict[str, NDArray[np.int64]]:
    """Each column hangs on the one before, and every level has as many patients: what of that the round takes."""
    specs = declared_choice(ROUNDS[2], domain)
    parents = np.arange(specs["parents"].shape[0], dtype=np.int64) - 1
    whole = {
        "levels": np.full(specs["levels"].shape, levels, np.int64),
        "parents": parents,
        "multiplier": np.array([1000]),
    }
    return {name: whole[name] for name in declared_choice(task, domain)}
