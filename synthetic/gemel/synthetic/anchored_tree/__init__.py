"""Virtual patients from noisy tables: anchors (outcomes, treatments) tied to everything, and a tree of features."""

from __future__ import annotations

from gemel.synthetic.anchored_tree.mechanism import (
    PrivateFit,
    add_noise,
    charged,
    count,
    fit,
    fit_private,
    plan_for,
    scoring,
    tree_of,
)
from gemel.synthetic.anchored_tree.model import TreeModel
from gemel.synthetic.anchored_tree.plan import MeasurePlan, measure_plan, most_pair_cells, pair_queries
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.anchored_tree.scores import choose_tree, sums_shape

__all__ = [
    "MeasurePlan",
    "PrivateFit",
    "Query",
    "TreeModel",
    "add_noise",
    "charged",
    "choose_tree",
    "count",
    "fit",
    "fit_private",
    "measure_plan",
    "most_pair_cells",
    "pair_queries",
    "plan_for",
    "scoring",
    "sums_shape",
    "tree_of",
]
