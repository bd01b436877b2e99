"""Exact inference against enumeration, the estimate against mbi 2.0."""

import itertools

import numpy as np
import pytest

from gemel.synthetic.private_pgm import Graph, estimate, infer, total_of

GRAPH = Graph("age", ("x", "y", "w", "z"), {"y": "x", "w": "y"}, {"age": 3, "x": 2, "y": 4, "w": 2, "z": 3})


def enumerate_joint(graph, potentials):
    names = (graph.anchor, *graph.order)
    joint = np.zeros([graph.sizes[n] for n in names])
    for cell in itertools.product(*(range(graph.sizes[n]) for n in names)):
        level = dict(zip(names, cell, strict=True))
        joint[cell] = sum(table[level[a], level[b]] for (a, b), table in potentials.items())
    joint = np.exp(joint)
    return names, joint / joint.sum()


def random_potentials(seed):
    random = np.random.default_rng(seed)
    return {c: random.normal(0, 2, (GRAPH.sizes[c[0]], GRAPH.sizes[c[1]])) for c in GRAPH.cliques}


@pytest.mark.parametrize("seed", range(3))
def test_marginals_equal_those_of_the_enumerated_joint(seed):
    potentials = random_potentials(seed)
    names, joint = enumerate_joint(GRAPH, potentials)
    found = infer(GRAPH, potentials)
    for (a, b), table in found.marginals.items():
        others = tuple(i for i, n in enumerate(names) if n not in (a, b))
        expected = joint.sum(axis=others)
        assert np.allclose(table, expected if names.index(a) < names.index(b) else expected.T, atol=1e-12)


def test_the_conditionals_multiply_to_the_joint():
    potentials = random_potentials(9)
    _, joint = enumerate_joint(GRAPH, potentials)
    found = infer(GRAPH, potentials)
    product = np.einsum(
        "a,ax,axy,ayw,az->axywz", found.anchor, *(found.conditionals[n] for n in ("x", "y", "w", "z"))
    )
    assert np.allclose(product, joint, atol=1e-12)


def test_tables_without_noise_are_recovered():
    _, joint = enumerate_joint(GRAPH, random_potentials(4))
    rows = np.random.default_rng(0).choice(joint.size, 50_000, p=joint.ravel())
    cells = np.stack(np.unravel_index(rows, joint.shape))
    names = (GRAPH.anchor, *GRAPH.order)
    tables = {}
    for a, b in GRAPH.cliques:
        tables[a, b] = np.zeros((GRAPH.sizes[a], GRAPH.sizes[b]), np.int64)
        np.add.at(tables[a, b], (cells[names.index(a)], cells[names.index(b)]), 1)
    model, total = estimate(GRAPH, tables)
    assert total == pytest.approx(50_000)
    for clique, table in tables.items():
        assert 0.5 * np.abs(model.marginals[clique] - table / 50_000).sum() < 0.005


def test_the_total_is_never_below_one():
    assert total_of({("a", "b"): np.full((2, 2), -50)}) == 1.0


def noisy_tables():
    _, joint = enumerate_joint(GRAPH, random_potentials(2))
    names = (GRAPH.anchor, *GRAPH.order)
    random = np.random.default_rng(1)
    tables = {}
    for a, b in GRAPH.cliques:
        table = joint.sum(axis=tuple(i for i, n in enumerate(names) if n not in (a, b)))
        table = table if names.index(a) < names.index(b) else table.T
        tables[a, b] = np.rint(5_000 * table + random.normal(0, 150, table.shape)).astype(np.int64)
    return tables


def test_the_estimate_agrees_with_mbi_on_noisy_and_inconsistent_tables():
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    from mbi import Domain, LinearMeasurement, estimation

    tables = noisy_tables()
    assert any((t < 0).any() for t in tables.values()), "the case should hold a negative cell"
    model, total = estimate(GRAPH, tables)
    measured = [LinearMeasurement(t.astype(float).ravel(), c, stddev=150.0) for c, t in tables.items()]
    oracle = estimation.MirrorDescent().estimate(Domain.fromdict(GRAPH.sizes), measured, iters=2_000)
    assert total == pytest.approx(float(oracle.total), rel=1e-9)
    for clique in tables:
        theirs = np.asarray(oracle.marginals.project(clique).datavector(flatten=False)) / total
        assert 0.5 * np.abs(model.marginals[clique] - theirs).sum() < 0.003
