"""The cap holds for every patient by what touched that patient, and for nobody by more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import (
    COUNT,
    DELTA,
    EVALUATE,
    OTHER,
    PLAN,
    STEWARDS,
    STUDY,
    THIRD,
    TRAIN,
    decision,
    open_ledger,
    people,
    pseudonym,
    refused,
    reserve,
)

from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share
from gemel.core.signing import SigningKey
from gemel.privacy import renyi
from gemel.privacy.accounting import epsilon, price
from gemel.privacy.ledger import Ledger, exposure, histories

KEY = SigningKey.generate()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "l.sqlite", KEY) as opened:
        yield opened


def test_who_was_in_no_cohort_has_spent_nothing(ledger: Ledger) -> None:
    reserve(ledger)
    quote = ledger.quote(PLAN, people(1000, 1050))
    assert quote.epsilon_before == 0
    assert quote.epsilon_after == price(PLAN, delta=DELTA)


def test_studies_on_different_people_do_not_add_up_but_one_shared_patient_does(tmp_path: Path) -> None:
    cap = price(PLAN, delta=DELTA)
    with open_ledger(tmp_path / "l.sqlite", KEY, cap=cap) as ledger:
        reserve(ledger, of=people(0, 50))
        with refused("GEM301"):
            reserve(ledger, OTHER, of=people(49, 100))
        reserve(ledger, OTHER, of=people(50, 100))
        assert ledger.epsilon_of_worst_person() == cap
        assert ledger.epsilon_spent() == price((*PLAN, *PLAN), delta=DELTA) > cap, "of one who were in both"


def test_a_patient_pays_for_the_share_that_touched_them_alone(tmp_path: Path) -> None:
    trained, held_out = people(1, 2), people(0, 1)
    with open_ledger(tmp_path / "l.sqlite", KEY) as ledger:
        reserve(ledger)
        for some, plan in ((trained, (COUNT, TRAIN)), (held_out, (COUNT, EVALUATE))):
            quote = ledger.quote((COUNT,), some)
            assert quote.epsilon_before == price(plan, delta=DELTA)
            assert quote.epsilon_after == price((*plan, COUNT), delta=DELTA)


def test_a_quote_writes_nothing_and_says_what_a_reservation_will(ledger: Ledger) -> None:
    reserve(ledger)
    before = ledger.entries()
    quote = ledger.quote(PLAN, people(40, 60))
    assert ledger.entries() == before
    assert ledger.persons() == 50
    assert quote.admitted
    reserve(ledger, OTHER, of=people(40, 60))
    assert ledger.epsilon_of_worst_person() == quote.epsilon_after
    costly = (Charge(task="x", share=Share.EVERYONE, mechanisms=(_gauss(0.5),)),)
    assert not ledger.quote(costly, people(0, 1)).admitted
    with refused("GEM301"):
        reserve(ledger, THIRD, costly, of=people(0, 1))


def test_what_is_given_back_can_be_spent_by_the_same_people(tmp_path: Path) -> None:
    cap = price(PLAN, delta=DELTA)
    with open_ledger(tmp_path / "l.sqlite", KEY, cap=cap) as ledger:
        entry = reserve(ledger)
        assert not ledger.quote((TRAIN,), people()).admitted
        ledger.expire(decision(entry, "train/1"), stewards=STEWARDS)
        assert ledger.quote((TRAIN,), people()).admitted
        reserve(ledger, OTHER, (TRAIN,))
    with open_ledger(tmp_path / "l.sqlite", KEY, cap=cap) as ledger:
        assert ledger.epsilon_of_worst_person() == cap


def test_a_plan_that_only_the_exact_composition_clears_is_admitted(tmp_path: Path) -> None:
    """The curves say some percent more than is true: between the two the composition decides."""
    true = price((*PLAN, *PLAN), delta=DELTA)
    bound = max(
        float(renyi.epsilon(sum(renyi.curve(m) for c in (*PLAN, *PLAN) if c.share in (Share.EVERYONE, role)
                                for m in c.mechanisms), delta=DELTA))
        for role in (Share.TRAINING, Share.HELD_OUT)
    )  # fmt: skip
    assert bound > true * 1.02
    with open_ledger(tmp_path / "l.sqlite", KEY, cap=true) as ledger:
        reserve(ledger)
        reserve(ledger, OTHER)
        assert ledger.epsilon_of_worst_person() == true


# --- against a loop over persons -----------------------------------------------------------------


def _gauss(z: float, count: int = 1) -> Mechanism:
    return Mechanism(kind=MechanismKind.GAUSSIAN, noise_multiplier=z, count=count)


# One of each way to be accounted for: by a closed form, on the grid, and with a curve that is not linear.
MECHANISMS = (
    _gauss(6.0),
    Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=5.0),
    Mechanism(kind=MechanismKind.POISSON_GAUSSIAN, noise_multiplier=1.0, sample_rate=0.1),
)
PERSONS = 9
Study = tuple[list[tuple[Share, int]], set[int], set[int], bool]
STUDIES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(Share), st.integers(0, 2)), min_size=1, max_size=2),
        st.sets(st.integers(0, PERSONS - 1)),
        st.sets(st.integers(0, PERSONS - 1)),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def _plan(chosen: list[tuple[Share, int]]) -> tuple[Charge, ...]:
    return tuple(
        Charge(task=f"t{n}", share=share, mechanisms=(MECHANISMS[m],)) for n, (share, m) in enumerate(chosen)
    )


def _of(training: set[int], held_out: set[int]) -> dict[Share, tuple[str, ...]]:
    """Not a division: the ledger takes any sets."""
    return {
        Share.TRAINING: tuple(map(pseudonym, sorted(training))),
        Share.HELD_OUT: tuple(map(pseudonym, sorted(held_out))),
        Share.EVERYONE: tuple(map(pseudonym, sorted(training | held_out))),
    }


def _spent(histories: dict[int, list[Mechanism]]) -> float:
    return max((epsilon(paid, delta=DELTA) for paid in histories.values()), default=0.0)


@pytest.mark.parametrize("large", [False, True], ids=["small", "as if large"])
@given(studies=STUDIES, cap=st.sampled_from([1.0, 1.4, 2.2]))
@settings(max_examples=12)
def test_a_plan_is_admitted_exactly_when_a_loop_over_persons_finds_all_under_the_cap(
    large: bool, studies: Sequence[Study], cap: float
) -> None:
    paid: dict[int, list[Mechanism]] = {person: [] for person in range(PERSONS)}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        if large:
            patch.setattr(exposure, "_SMALL", -1)
            patch.setattr(exposure, "_BLOCK", 8)
        with open_ledger(Path(folder) / "l.sqlite", KEY, cap=cap) as ledger:
            for number, (chosen, training, held_out, give_back) in enumerate(studies):
                plan, of = _plan(chosen), _of(training, held_out)
                then = {p: [*m, *_touching(plan, p, training, held_out)] for p, m in paid.items()}
                touched = {p: m for p, m in then.items() if p in training | held_out}
                quote = ledger.quote(plan, of)
                assert quote.admitted == (_spent(touched) <= cap)
                if not large:
                    assert quote.epsilon_after == _spent(touched) or not quote.admitted
                elif quote.admitted:
                    assert quote.epsilon_after >= _spent(touched) - 1e-9
                if not quote.admitted:
                    continue
                entry = reserve(ledger, f"{number:064x}", plan, of=of)
                if give_back:
                    ledger.expire(decision(entry, "t0"), stewards=STEWARDS)
                    then = {p: [*m, *_touching(plan[1:], p, training, held_out)] for p, m in paid.items()}
                paid = then
            assert ledger.epsilon_of_worst_person() >= _spent(paid) - 1e-9
            if not large:
                assert ledger.epsilon_of_worst_person() == _spent(paid)


def _touching(plan: Sequence[Charge], person: int, training: set[int], held_out: set[int]) -> list[Mechanism]:
    inside = {
        Share.TRAINING: person in training,
        Share.HELD_OUT: person in held_out,
        Share.EVERYONE: person in training | held_out,
    }
    return [m for charge in plan if inside[charge.share] for m in charge.mechanisms]


# --- many histories at once ----------------------------------------------------------------------


def _histories(rows: list[list[int]]) -> histories.Histories:
    after = np.array(rows)
    return histories.Histories(mechanisms=MECHANISMS, before=np.zeros_like(after), after=after)


def test_many_histories_are_cleared_through_one_that_dominates_them(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    exact = histories.epsilon

    def counted(mechanisms: Sequence[Mechanism], *, delta: float) -> float:
        computed.append(len(mechanisms))
        return exact(mechanisms, delta=delta)

    monkeypatch.setattr(histories, "epsilon", counted)
    rows = [[a, 4 - a, b] for a in range(5) for b in range(2)]
    worst = max(
        exact([m for m, n in zip(MECHANISMS, r, strict=False) for _ in range(n)], delta=DELTA) for r in rows
    )
    found = histories.judge(_histories(rows), cap=worst * 1.5, delta=DELTA, for_the_record=False)
    assert found.admitted
    assert worst <= found.epsilon_after <= worst * 1.5
    assert len(computed) <= 2 < len(rows)
    tight = histories.judge(_histories(rows), cap=worst, delta=DELTA, for_the_record=False)
    assert tight.admitted
    assert not histories.judge(_histories(rows), cap=worst - 1e-5, delta=DELTA, for_the_record=False).admitted


def test_what_would_take_too_many_computations_is_refused_and_never_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[4, 0, 1], [0, 3, 1], [2, 2, 1]]
    cap = max(
        epsilon([m for m, n in zip(MECHANISMS, r, strict=False) for _ in range(n)], delta=DELTA) for r in rows
    )
    assert histories.judge(_histories(rows), cap=cap, delta=DELTA, for_the_record=False).admitted
    monkeypatch.setattr(histories, "_MOST_EXACT", 1)
    assert not histories.judge(_histories(rows), cap=cap, delta=DELTA, for_the_record=False).admitted


@given(st.floats(1e-3, 2.0))
@settings(max_examples=8)
def test_the_closed_form_of_gaussians_is_just_below_what_is_accounted(precision: float) -> None:
    least = histories._gaussian_epsilon(precision, DELTA)
    true = epsilon([_gauss(precision**-0.5)], delta=DELTA)
    assert least <= true <= least * 1.0001 + 2e-5


def test_a_refusal_that_the_gaussians_alone_prove_needs_no_composition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(tmp_path / "l.sqlite", KEY) as ledger:
        reserve(ledger, STUDY)
        monkeypatch.setattr(exposure, "_SMALL", -1)
        monkeypatch.setattr(histories, "epsilon", lambda *_a, **_k: pytest.fail("composed"))
        costly = (COUNT, Charge(task="x", share=Share.TRAINING, mechanisms=(_gauss(0.5),)))
        quote = ledger.quote(costly, people())
        assert not quote.admitted
        assert 3.0 < quote.epsilon_after <= price((*PLAN, *costly), delta=DELTA)


def test_a_bound_that_is_no_number_clears_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(tmp_path / "l.sqlite", KEY) as ledger:
        reserve(ledger, STUDY)
        monkeypatch.setattr(exposure, "_SMALL", -1)
        bound = renyi.epsilon

        def no_number(curves: np.ndarray, *, delta: float, margin: float | None = None) -> np.ndarray:
            if margin is not None:  # the accountant's own
                return bound(curves, delta=delta, margin=margin)
            return np.full(np.shape(curves)[:-1], np.nan)

        monkeypatch.setattr(renyi, "epsilon", no_number)
        assert ledger.quote(PLAN, people()).admitted, "by its exact composition"
        costly = (Charge(task="x", share=Share.EVERYONE, mechanisms=(_poisson(0.4),)),)
        assert not ledger.quote(costly, people()).admitted


def _poisson(z: float) -> Mechanism:
    return Mechanism(kind=MechanismKind.POISSON_GAUSSIAN, noise_multiplier=z, sample_rate=0.5, count=5)
