"""Shares, masks, fixed point and noise in shares, each against what it must be."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gemel.core.errors import GemelError
from gemel.core.mechanism import MechanismKind
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation import distributed_noise as dn
from gemel.privacy.secure_aggregation import encoding, masks, shamir
from gemel.privacy.secure_aggregation.encoding import Entry, Layout, Ring

# --- Shamir -----------------------------------------------------------------------------------------


def test_the_field_is_the_least_prime_above_the_secrets() -> None:
    """Miller-Rabin with forty bases; and no number between 2^256 and it is prime."""

    def prime(n: int) -> bool:
        d, s = n - 1, 0
        while d % 2 == 0:
            d, s = d // 2, s + 1
        for base in range(2, 42):
            x = pow(base, d, n)
            if x in (1, n - 1):
                continue
            for _ in range(s - 1):
                x = x * x % n
                if x == n - 1:
                    break
            else:
                return False
        return True

    assert prime(shamir.PRIME)
    assert not any(prime(n) for n in range(2**256 + 1, shamir.PRIME))


@given(st.binary(min_size=32, max_size=32), st.data())
def test_any_threshold_of_the_shares_gives_the_secret(secret: bytes, data: st.DataObject) -> None:
    points = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, points))
    shares = shamir.split(secret, threshold=threshold, points=points)
    chosen = data.draw(st.permutations(sorted(shares)))[: data.draw(st.integers(threshold, points))]
    assert shamir.combine({x: shares[x] for x in chosen}) == secret


def test_one_share_too_few_is_consistent_with_every_secret() -> None:
    """For two of three shares and any other secret there is a third share that fits: they say nothing."""
    shares = shamir.split(b"\x07" * 32, threshold=3, points=5)
    for guess in (bytes(32), b"\xff" * 32):
        # The line through (0, guess), (1, …), (2, …) has a value at 3.
        y = {0: int.from_bytes(guess, "big"), **{x: int.from_bytes(shares[x], "big") for x in (1, 2)}}
        third = (y[0] - 3 * y[1] + 3 * y[2]) % shamir.PRIME
        fitting = {1: shares[1], 2: shares[2], 3: third.to_bytes(33, "big")}
        assert shamir.combine(fitting) == guess


def test_shares_are_spread_over_the_whole_field() -> None:
    first = [shamir.split(bytes(32), threshold=2, points=2)[1] for _ in range(2000)]
    counts = np.bincount([share[1] for share in first], minlength=256)
    assert counts.max() < 40
    assert len(set(first)) == 2000


@pytest.mark.parametrize(
    "shares",
    [{}, {0: bytes(33)}, {1: bytes(32)}, {1: b"\xff" * 33}, {1: b"\x01" + bytes(32)}],
    ids=["none", "point zero", "short", "outside the field", "no secret"],
)
def test_malformed_shares_are_refused(shares: dict[int, bytes]) -> None:
    with pytest.raises(GemelError, match="GEM320"):
        shamir.combine(shares)


def test_impossible_sharings_are_refused() -> None:
    with pytest.raises(GemelError, match="GEM320"):
        shamir.split(bytes(31), threshold=1, points=1)
    for threshold in (0, 4):
        with pytest.raises(GemelError, match="GEM322"):
            shamir.split(bytes(32), threshold=threshold, points=3)


# --- masks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("length", [1, 7, masks.CHUNK_BYTES // 4, masks.CHUNK_BYTES // 4 + 1, 200_003])
def test_a_stream_is_chacha20_whatever_the_chunks(dtype: type, length: int) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    key = bytes(range(32))
    expected = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    vector = np.zeros(length, dtype)
    masks.apply_streams(vector, [masks.Stream(key, subtract=False)])
    assert vector.tobytes() == expected.update(bytes(vector.nbytes))
    masks.apply_streams(vector, [masks.Stream(key, subtract=False).inverse])
    assert not vector.any()


def test_two_sides_of_a_pair_cancel_and_other_contexts_have_other_masks() -> None:
    private = [bytes([i]) * 32 for i in (1, 2)]
    public = [masks.public_half(p) for p in private]
    a = masks.pair_stream(private[0], "a", "b", peer_public=public[1], about="c")
    b = masks.pair_stream(private[1], "b", "a", peer_public=public[0], about="c")
    assert a.key == b.key
    assert (a.subtract, b.subtract) == (False, True)
    other = masks.pair_stream(private[0], "a", "b", peer_public=public[1], about="d")
    assert other.key != a.key
    assert masks.agreed(private[0], public[1], purpose="seal", about=["c", "a", "b"]) != a.key


def test_what_is_sealed_opens_only_in_its_context() -> None:
    sealed = masks.seal(bytes(32), b"content", about=["x", "a", "b"])
    assert masks.unseal(bytes(32), sealed, about=["x", "a", "b"]) == b"content"
    for key, content, about in (
        (bytes(32), sealed, ["x", "b", "a"]),
        (b"\x01" * 32, sealed, ["x", "a", "b"]),
        (bytes(32), sealed[:-1], ["x", "a", "b"]),
        (bytes(32), b"", ["x", "a", "b"]),
    ):
        with pytest.raises(GemelError, match="GEM320"):
            masks.unseal(key, content, about=about)


# --- encoding ---------------------------------------------------------------------------------------


def _layout(*, bits: int = 32, parties: int = 5, **facts: object) -> Layout:
    entry = Entry(**{"name": "w", "shape": (4,), "limit": 8.0, "fraction_bits": 20, **facts})  # type: ignore[arg-type]
    return Layout(entries=(entry,), ring=Ring(bits=bits), parties=parties)


@given(
    st.lists(
        hnp.arrays(np.float32, (4,), elements=st.floats(-9, 9, width=32, allow_nan=False)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([32, 64]),
)
def test_sums_of_reals_are_exact_sums_of_the_rounded_values(vectors: list[np.ndarray], bits: int) -> None:
    layout = _layout(bits=bits)
    total = np.zeros(4, dtype=layout.ring.dtype)
    for vector in vectors:
        total = total + layout.encode({"w": vector})
    decoded = layout.decode(total)["w"]
    exact = [
        sum(Fraction(round(Fraction(float(np.clip(v[i], -8, 8))) * 2**20), 2**20) for v in vectors)
        for i in range(4)
    ]
    assert [Fraction(float(x)) for x in decoded] == exact
    clipped = np.sum([np.clip(v.astype(np.float64), -8, 8) for v in vectors], axis=0)
    assert np.abs(decoded - clipped).max() <= len(vectors) * 2.0**-21


@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=6, max_size=6), min_size=1, max_size=5))
def test_sums_of_integers_are_exact(tables: list[list[int]]) -> None:
    layout = Layout(entries=encoding.integers({"t": (2, 3)}, limit=1000), ring=Ring(bits=32), parties=5)
    total = np.zeros(6, dtype=np.uint32)
    for table in tables:
        total = total + layout.encode({"t": np.array(table, np.int64).reshape(2, 3)})
    decoded = layout.decode(total)["t"]
    assert decoded.dtype == np.int64
    assert decoded.tolist() == np.sum([np.reshape(t, (2, 3)) for t in tables], axis=0).tolist()


def test_several_arrays_lie_one_after_the_other() -> None:
    entries = (
        *encoding.reals({"b": (2,), "a": ()}, limit=1, fraction_bits=8),
        Entry(name="n", shape=(1,), limit=9),
    )
    layout = Layout(entries=entries, ring=Ring(bits=32), parties=3)
    arrays = {"a": np.float64(0.5), "b": np.array([-1.0, 0.25]), "n": np.array([-9])}
    words = layout.encode({name: np.asarray(array) for name, array in arrays.items()})
    assert words.view(np.int32).tolist() == [128, -256, 64, -9]
    decoded = layout.decode(words)
    assert (float(decoded["a"]), decoded["b"].tolist(), decoded["n"].tolist()) == (0.5, [-1.0, 0.25], [-9])


@pytest.mark.parametrize(
    ("facts", "fits"),
    [
        ({"limit": 8.0, "fraction_bits": 25, "parties": 8}, False),  # 8 · 2^28 = 2^31
        ({"limit": 8.0, "fraction_bits": 25, "parties": 7}, True),
        ({"limit": 8.0, "fraction_bits": 25, "parties": 8, "bits": 64}, True),
        ({"limit": 2.0**31 - 1, "fraction_bits": None, "parties": 1}, True),
        ({"limit": 2.0**31, "fraction_bits": None, "parties": 1}, False),
        ({"limit": math.inf}, False),
        ({"limit": math.nan}, False),
        ({"limit": 0.0}, False),
        ({"limit": -1.0}, False),
        ({"fraction_bits": 63, "bits": 64}, False),
        ({"fraction_bits": -1}, False),
        ({"shape": (0,)}, False),
        ({"bits": 16}, False),
        ({"parties": 0}, False),
    ],
    ids=str,
)
def test_a_layout_whose_sum_could_wrap_around_is_refused(facts: dict[str, object], fits: bool) -> None:
    if fits:
        assert _layout(**facts).length == 4  # type: ignore[arg-type]
        return
    with pytest.raises(GemelError, match="GEM324"):
        _layout(**facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2, 3, 4]),
        np.array([1, np.nan, 0, 0]),
        np.array([np.inf, 0, 0, 0]),
        np.zeros(5),
        np.zeros((2, 2)),
    ],
    ids=["integers", "nan", "inf", "longer", "shape"],
)
def test_values_that_are_not_the_layouts_are_refused(array: np.ndarray) -> None:
    with pytest.raises(GemelError, match="GEM324"):
        _layout().encode({"w": array})


@pytest.mark.parametrize(
    "array", [np.array([11, 0]), np.array([-11, 0]), np.array([0.0, 1.0]), np.array([2**63, 0], np.uint64)]
)
def test_integers_beyond_the_limit_are_refused_never_clipped(array: np.ndarray) -> None:
    layout = Layout(entries=encoding.integers({"t": (2,)}, limit=10), ring=Ring(bits=32), parties=2)
    with pytest.raises(GemelError, match="GEM324"):
        layout.encode({"t": array})


def test_a_weighted_mean_is_that_of_the_weights_to_the_resolution() -> None:
    rng = np.random.default_rng(3)
    updates = [rng.normal(size=4).astype(np.float32) for _ in range(5)]
    weights = [120.0, 80.0, 999.0, 3.0, 500.0]
    entries = (
        *encoding.reals({"w": (4,)}, limit=8, fraction_bits=24),
        encoding.weight_entry(fraction_bits=24),
    )
    layout = Layout(entries=entries, ring=Ring(bits=64), parties=5)
    total = np.zeros(layout.length, np.uint64)
    for update, weight in zip(updates, weights, strict=True):
        total = total + encoding.weighted(layout, {"w": update}, weight=weight, most=1000.0)
    mean = encoding.weighted_mean(layout.decode(total))["w"]
    expected = np.average(np.array(updates, np.float64), axis=0, weights=weights)
    assert np.abs(mean - expected).max() < 1e-6
    for weight in (0.0, -1.0, 1000.1, math.nan):
        with pytest.raises(GemelError, match="GEM324"):
            encoding.weighted(layout, {"w": updates[0]}, weight=weight, most=1000.0)


# --- noise in shares --------------------------------------------------------------------------------


def _pmf(sigma: float, reach: int) -> np.ndarray:
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x.astype(np.longdouble) ** 2) / (2 * np.longdouble(sigma) ** 2))
    return weights / weights.sum()


def _sum_pmf(sigma: float, shares: int, reach: int) -> np.ndarray:
    """The exact distribution of the sum, by convolution in extended precision."""
    single = result = _pmf(sigma, reach)
    for _ in range(shares - 1):
        result = np.convolve(result, single)
    return result


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 1.3])
@pytest.mark.parametrize("shares", [2, 3, 5, 10])
def test_the_sum_is_within_tau_of_the_discrete_gaussian(sigma: float, shares: int) -> None:
    reach = math.ceil(20 * sigma)
    total = _sum_pmf(sigma, shares, reach)
    wide = _pmf(sigma * math.sqrt(shares), (len(total) - 1) // 2)
    middle = len(total) // 2
    near = slice(middle - math.ceil(8 * sigma), middle + math.ceil(8 * sigma) + 1)
    difference = float(np.abs(np.log(total[near] / wide[near])).max())
    assert difference <= dn.tau(sigma, shares=shares)
    if sigma <= 0.7:  # and where it can be seen, it is there: the bound is not about nothing
        assert difference > dn.tau(sigma, shares=shares) / 1000


def _delta(pmf: np.ndarray, epsilon: float) -> float:
    """Hockey-stick divergence of the table's cell with and without one patient, the worse direction."""
    with_one, without = np.append(0, pmf), np.append(pmf, 0)
    factor = np.exp(np.longdouble(epsilon))
    return float(
        max(
            np.clip(with_one - factor * without, 0, None).sum(),
            np.clip(without - factor * with_one, 0, None).sum(),
        )
    )


@pytest.mark.parametrize(
    ("nodes", "dropouts", "colluders", "z"), [(5, 1, 1, 4.0), (10, 2, 1, 6.0), (3, 0, 0, 4.0)]
)
def test_the_stated_mechanism_costs_what_the_sum_itself_costs(
    nodes: int, dropouts: int, colluders: int, z: float
) -> None:
    mechanism = dn.mechanism_of_sum(z, nodes=nodes, dropouts=dropouts, colluders=colluders)
    assert mechanism.kind is MechanismKind.DISCRETE_GAUSSIAN
    sigma = dn.share_sigma(z, nodes=nodes, dropouts=dropouts, colluders=colluders)
    honest = nodes - dropouts - colluders
    pmf = _sum_pmf(sigma, honest, math.ceil(12 * sigma))
    stated = pld.from_discrete_gaussian_mechanism(mechanism.noise_multiplier, sensitivity=1)
    for epsilon in (0.05, 0.2, 0.5):
        direct, promised = _delta(pmf, epsilon), stated.get_delta_for_epsilon(epsilon)
        assert direct <= promised * (1 + 1e-6) + 1e-15
        assert direct >= promised * 0.98
    # One share fewer than guaranteed costs more than stated: this comparison can fail.
    fewer = _sum_pmf(sigma, honest - 1, math.ceil(12 * sigma))
    assert _delta(fewer, 0.2) > stated.get_delta_for_epsilon(0.2) * 1.05


def test_shares_of_the_guaranteed_nodes_add_up_to_the_multiplier() -> None:
    noise = NoiseSource.for_tests(5)
    sigma = dn.share_sigma(6.0, nodes=10, dropouts=3, colluders=1)
    assert sigma == pytest.approx(6 / math.sqrt(6))
    assert 6 * sigma**2 >= 36
    total = sum(noise.discrete_gaussian(sigma, (20_000,)) for _ in range(6))
    assert float(np.std(total)) == pytest.approx(6.0, rel=0.03)


def test_shares_too_small_to_add_up_are_refused_and_the_least_is_named() -> None:
    least = dn.least_noise_multiplier(8)
    assert dn.mechanism_of_sum(least, nodes=10, dropouts=2, colluders=0).noise_multiplier == least
    for small in (least - 0.05, 1.0, 0.1):
        with pytest.raises(GemelError, match="GEM305"):
            dn.mechanism_of_sum(small, nodes=10, dropouts=2, colluders=0)
    assert dn.mechanism_of_sum(0.5, nodes=3, dropouts=1, colluders=1)  # one share alone is exact


@pytest.mark.parametrize(("dropouts", "colluders"), [(3, 2), (5, 0), (-1, 0), (0, -1)])
def test_no_guaranteed_noise_is_no_mechanism(dropouts: int, colluders: int) -> None:
    with pytest.raises(GemelError, match="GEM322"):
        dn.mechanism_of_sum(5.0, nodes=5, dropouts=dropouts, colluders=colluders)


@settings(max_examples=30)
@given(st.integers(2, 40), st.floats(0.5, 5))
def test_tau_falls_with_sigma_and_grows_with_shares(shares: int, sigma: float) -> None:
    assert dn.tau(sigma + 0.1, shares=shares) < dn.tau(sigma, shares=shares)
    assert dn.tau(sigma, shares=shares + 1) >= dn.tau(sigma, shares=shares)
    assert dn.tau(0.49, shares=shares) == math.inf
    assert dn.tau(sigma, shares=1) == 0
