"""The noisy tables that hospitals release for virtual cohorts: which ones, over which public bins, counted how.

Nothing here is chosen by looking at patients. Bins come from the programme, the pairs from a fixed list, so
the structure costs no privacy and is known before a study is signed. Each table costs as much as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import ArraySpec
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Feature, FeatureKind, Missing, Programme

Table = NDArray[np.int64]
Clique = tuple[str, str]

SEX = "sex"

# Pairs that any clinician would expect to move together; by concept, so that every programme with those
# concepts gets them. Beside the age star, which ties everything to age.
CLINICAL_PAIRS: tuple[tuple[str, str], ...] = (
    ("body_mass_index", "fatty_liver"),
    ("fatty_liver", "diabetes"),
    ("systolic_blood_pressure", "hypertension"),
    (SEX, "hdl_cholesterol"),
    ("ischaemic_heart_disease", "myocardial_infarction"),
    ("hdl_cholesterol", "dyslipidaemia"),
)

_BINARY = (FeatureKind.MALE, FeatureKind.PRESENT)
# Of a feature that declares no bins: where they end, in scales from the reference mean.
_USUAL_EDGES = (-1.5, -0.5, 0.5, 1.5)


def may_be_missing(feature: Feature) -> bool:
    """Whether "missing" is a level of its own: measured values and sex; an age and a history always exist."""
    return feature.kind is not FeatureKind.AGE and feature.missing_policy is Missing.MASK


def is_measured(feature: Feature) -> bool:
    """Whether a feature comes from measured values, which are missing together: a programme's first and the others."""
    return may_be_missing(feature) and feature.kind is not FeatureKind.MALE


def edges_of(feature: Feature) -> tuple[float, ...]:
    """The public bins of a feature: those that it declares, else some around its reference mean."""
    if feature.bin_edges:
        return feature.bin_edges
    if is_binary(feature):
        return (feature.low, (feature.low + feature.high) / 2, feature.high)
    inner = (feature.reference_mean + step * feature.scale for step in _USUAL_EDGES)
    return (feature.low, *(edge for edge in inner if feature.low < edge < feature.high), feature.high)


def is_binary(feature: Feature) -> bool:
    """Whether the bins mean 0 and 1 rather than ranges."""
    return feature.kind in _BINARY


def levels(feature: Feature) -> int:
    """The number of levels: the public bins, and one for "missing" (the last) where that can be."""
    return len(edges_of(feature)) - 1 + int(may_be_missing(feature))


def anchor(programme: Programme) -> str:
    """The feature that every table of the star holds: age, else the first. GEM701 when the programme has no columns."""
    for feature in (*(f for f in programme.columns if f.kind is FeatureKind.AGE), *programme.columns):
        return feature.name
    raise GemelError("GEM701", f"The programme {programme.name} has no feature to anchor a cohort on.")


def companions(programme: Programme) -> dict[str, str]:
    """Who else each feature depends on, beside age: {feature: the companion that is drawn before it}.

    Candidates, in this order: the first measured feature with each further one (what is measured together is
    missing together), then `CLINICAL_PAIRS`. One is taken when the programme has both sides and when it closes
    no cycle among the features other than age. So given age the rest is a forest, the graph has treewidth two,
    exact inference is cheap, and there are at most 2 d - 3 tables for d features.
    Each tree is rooted at its feature that the programme declares first.
    """
    rest = [name for name in programme.feature_names if name != anchor(programme)]
    tree = {name: name for name in rest}
    neighbours: dict[str, list[str]] = {name: [] for name in rest}
    for a, b in _candidates(programme):
        if a not in tree or b not in tree or tree[a] == tree[b]:
            continue
        merged = tree[b]
        tree = {name: tree[a] if root == merged else root for name, root in tree.items()}
        neighbours[a].append(b)
        neighbours[b].append(a)
    parent: dict[str, str] = {}
    seen: set[str] = set()
    for root in rest:
        stack = [] if root in seen else [root]
        while stack:
            name = stack.pop()
            seen.add(name)
            for child in neighbours[name]:
                if child not in seen:
                    parent[child] = name
                    stack.append(child)
    return parent


def cliques(programme: Programme) -> tuple[Clique, ...]:
    """The pairs that are counted: age with every other feature, then each companion with its feature."""
    age = anchor(programme)
    star = [(age, name) for name in programme.feature_names if name != age]
    tree = companions(programme)
    return (*star, *((tree[name], name) for name in programme.feature_names if name in tree))


def table_name(clique: Clique) -> str:
    """The name under which a table travels.

    >>> table_name(("age_years", "male"))
    'marginal/age_years*male'
    """
    return "marginal/" + "*".join(clique)


def marginal_specs(programme: Programme) -> dict[str, ArraySpec]:
    """The declared shape of every table: int64 (levels of one, levels of the other)."""
    sizes = {feature.name: levels(feature) for feature in programme.columns}
    return {table_name(c): ArraySpec((sizes[c[0]], sizes[c[1]]), "int64") for c in cliques(programme)}


def level_of(feature: Feature, column: NDArray[np.floating]) -> NDArray[np.intp]:
    """The level of each value of a column (n,), between 0 and `levels(feature)` - 1.

    Values outside the public bounds go to the outermost bins. A value that is missing where nothing can be
    missing counts as the public reference: no patient's data may make the count fail, for that would tell.
    """
    # Bins are compared in the precision in which values are kept, so a value on an edge stays on its side.
    edges = np.asarray(edges_of(feature), dtype=np.float32)
    values = np.asarray(column, dtype=np.float32)
    missing = np.isnan(values)
    filled = np.where(missing, np.float32(feature.reference_mean), values)
    bins = np.clip(np.searchsorted(edges, filled, side="right") - 1, 0, len(edges) - 2)
    if may_be_missing(feature):
        bins = np.where(missing, len(edges) - 1, bins)
    return bins.astype(np.intp)


def encode(programme: Programme, values: NDArray[np.floating]) -> dict[str, NDArray[np.intp]]:
    """The levels of every feature for raw values (n, d)."""
    return {f.name: level_of(f, values[:, j]) for j, f in enumerate(programme.columns)}


def count_marginals(programme: Programme, dataset: Dataset) -> dict[str, Table]:
    """Count the exact tables of one hospital, before noise.

    Every patient adds one to exactly one cell of each table, so adding or removing a patient changes each
    table by one in one cell: sensitivity 1 in L1 and L2. The result is private until noise is added.
    """
    if dataset.features != programme.feature_names:
        raise GemelError("GEM701", f"The data set's columns are not those of {programme.name}.")
    codes = encode(programme, dataset.values)
    tables: dict[str, Table] = {}
    for clique, (name, spec) in zip(cliques(programme), marginal_specs(programme).items(), strict=True):
        flat = np.ravel_multi_index((codes[clique[0]], codes[clique[1]]), spec.shape)
        cells = int(np.prod(spec.shape))
        tables[name] = np.bincount(flat, minlength=cells).astype(np.int64).reshape(spec.shape)
    return tables


def sum_sites(
    programme: Programme, released: Sequence[Mapping[str, NDArray[np.generic]]]
) -> dict[str, Table]:
    """Add up the noisy tables of the sites. GEM701 when one does not fit the programme's public domain."""
    if not released:
        raise GemelError("GEM701", "No site released marginals.")
    for tables in released:
        check_tables(programme, tables)
    return {
        name: np.sum([np.asarray(tables[name], dtype=np.int64) for tables in released], axis=0)
        for name in marginal_specs(programme)
    }


def check_tables(programme: Programme, tables: Mapping[str, NDArray[np.generic]]) -> None:
    """Refuse (GEM701) tables whose names, shapes or types are not the programme's."""
    specs = marginal_specs(programme)
    if set(tables) != set(specs):
        raise GemelError(
            "GEM701", f"Expected {len(specs)} tables, got {sorted(set(tables) ^ set(specs))} apart."
        )
    for name, spec in specs.items():
        table = tables[name]
        if table.shape != spec.shape or table.dtype.kind not in "iu":
            raise GemelError(
                "GEM701", f"{name} must be integers {spec.shape}, got {table.dtype.name} {table.shape}."
            )


def _candidates(programme: Programme) -> list[Clique]:
    """The pairs that may become companions, in order of preference."""
    measured = [f.name for f in programme.columns if is_measured(f)]
    pairs = [(measured[0], name) for name in measured[1:]]
    for first, second in CLINICAL_PAIRS:
        a, b = _holder(programme, first), _holder(programme, second)
        if a is not None and b is not None and a != b:
            pairs.append((a, b))
    return pairs


def _holder(programme: Programme, concept: str) -> str | None:
    """The first feature that carries a concept; `SEX` stands for administrative sex."""
    for feature in programme.columns:
        if concept in feature.concepts or (concept == SEX and feature.kind is FeatureKind.MALE):
            return feature.name
    return None
