"""The audit of the rounds: real tasks hold what they promise, through masks too, and each planted fault is found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.audit.charges import gaussian_epsilon
from gemel.privacy.audit.report import AuditReport
from gemel.privacy.noise import NoiseSource
from gemel.synthetic import protocol
from gemel.synthetic.columns import Categories, Role, Times
from gemel.synthetic.domain import table_domain
from gemel.synthetic.report.attacks import (
    Effort,
    Verdict,
    mechanism,
    mechanism_findings,
    planted_faults,
    published,
)
from gemel.synthetic.report.attacks.federation import carry_out_rounds
from gemel.synthetic.report.attacks.masked import sum_through_masks

RELEASES = 40
# Names of the checks by what they begin with.
TOLD, FLOATS = "Nothing that is seen", "What is released are whole numbers"
MOVED, HELD_OUT = "One patient more moves", "A patient who is held out"
DISTANCE, SPREAD = "Worked out from what", "What is seen of synthesise/"


def seeded(number: int) -> NoiseSource:
    """The noise of every test here is given by its number: a run is the same every time, and no check cries wolf by chance."""
    return NoiseSource.for_tests(number)


@pytest.fixture(scope="module")
def checks(subject):
    return list(mechanism.attack(subject, releases=RELEASES, noise=seeded(1)))


def named(checks, start):
    return [check for check in checks if check.promise.startswith(start)]


def test_the_real_rounds_pass_every_check(checks, subject):
    assert AuditReport("the rounds", tuple(checks)).broken == ()
    assert len(checks) == (11 if subject.is_summed else 10)


def test_the_lower_bound_is_below_what_the_canary_costs(checks, subject):
    (cost,), bound = named(checks, DISTANCE), named(checks, "Who sees everything")[0]
    assert bound.numbers["measured"] <= cost.numbers["measured"] <= subject.epsilon


def test_the_canary_costs_nearly_all_that_is_claimed(checks, subject):
    # Levels and tables it moves by all that a patient can; scores by a little less.
    assert 0.9 * subject.epsilon < named(checks, DISTANCE)[0].numbers["measured"] <= subject.epsilon


def test_a_third_of_the_noise_is_seen(subject):
    for check in mechanism.control(subject, releases=80, noise=seeded(2)):
        assert check.control
        assert check.passed, check.measured
        assert check.numbers["measured"] > subject.epsilon


@pytest.mark.parametrize("name", planted_faults.FAULTS)
def test_a_planted_fault_is_caught(subject, name):
    broken = planted_faults.caught_by(planted_faults.FAULTS[name], subject, noise=seeded(3))
    assert broken is not None
    silent = SPREAD if subject.is_summed else TOLD
    assert broken.promise.startswith(
        {
            "exact n": TOLD,
            "data-derived domain": TOLD,
            "sensitivity 1 instead of m": DISTANCE,
            "float noise": FLOATS,
            "held-out patients counted": HELD_OUT,
            "one hospital without noise": silent,
            "score not rounded down": FLOATS,
            "score not divided by its sensitivity": MOVED,
        }[name]
    )


def test_the_canaries_alone_find_a_sensitivity_of_one_in_a_sum(subject):
    if not subject.is_summed:
        pytest.skip("one by one the fault is smaller, and takes more releases")
    faulty = planted_faults.sensitivity_of_one(subject)
    first = next(mechanism.canaries(faulty, releases=150, noise=seeded(4)))
    assert not first.passed, first.measured


def test_where_nobody_is_at_two_hospitals_a_sensitivity_of_one_is_no_fault(subject):
    if subject.is_summed:
        pytest.skip("a sum of one honest hospital's shares is that hospital's release")
    alone = replace(subject, with_canary=(subject.with_canary[0], *subject.hospitals[1:]))
    fault = planted_faults.FAULTS["sensitivity 1 instead of m"]
    assert planted_faults.caught_by(fault, alone, noise=seeded(5)) is None


def test_no_noise_at_all_is_caught_too(subject):
    silent = replace(subject, task=lambda _whole: subject.task(1e-3))
    first = next(mechanism.attack(silent, releases=1, noise=seeded(6)))
    assert not first.passed


def test_what_the_hospitals_do_is_the_task_of_the_protocol(subject):
    released = carry_out_rounds(subject, subject.hospitals, seeded(7))
    noise = seeded(7)
    for task in ROUNDS:
        for hospital, sent in zip(subject.hospitals, released.sent[task], strict=True):
            codes = {name: found[~hospital.held_out] for name, found in hospital.codes.items()}
            own = protocol.release(
                task, subject.domain, codes, whole=subject.whole, choice=released.choices[task], noise=noise
            )
            assert all(np.array_equal(sent, array) for array in own.values())


def test_the_price_of_a_patient_at_one_hospital_and_of_all_of_it_is_that_of_the_study(subject):
    one = subject.whole * (math.sqrt(len(subject.hospitals)) if subject.is_summed else 1)
    # At m hospitals: m times the change of a sum, or the same change of m releases.
    moves = 2 if subject.is_summed else math.sqrt(2)
    assert gaussian_epsilon(moves / one, delta=subject.delta) == pytest.approx(subject.epsilon, rel=1e-3)


def test_the_canary_has_levels_that_nobody_else_has(subject):
    for name, levels in subject.with_canary[0].codes.items():
        assert all(levels[-1] not in hospital.codes[name] for hospital in subject.hospitals)
    grown = [len(hospital.held_out) for hospital in subject.with_canary]
    assert grown == [61, 61, 60][: len(subject.hospitals)]


def test_scores_lie_about_nothing_without_and_about_one_with_the_canary(subject):
    score, noise = mechanism.scoring(subject), seeded(8)
    means = [
        np.mean([score(carry_out_rounds(subject, hospitals, noise)) for _ in range(30)])
        for hospitals in (subject.hospitals, subject.with_canary)
    ]
    # The standard error is 1 / (mu sqrt(30)), mu being near 0.7.
    assert means[0] == pytest.approx(0, abs=0.8)
    assert means[1] == pytest.approx(1, abs=0.8)


def test_a_sum_through_masks_is_that_of_the_hospitals_though_one_is_gone(subject):
    if not subject.is_summed:
        pytest.skip("nothing is masked")
    assert subject.study.aggregation.dropouts == 1
    released = carry_out_rounds(subject, subject.hospitals, seeded(9))
    sent = released.sent[ROUNDS[0]]
    total = sum_through_masks(subject.study, subject.domain, ROUNDS[0], sent)
    assert np.array_equal(total, sum(array.astype(np.int64) for array in sent))


def test_findings_of_the_mechanism_may_be_published_and_say_in_which_mode(domain, monkeypatch):
    fault = {"exact n": planted_faults.exact_number_of_patients}
    monkeypatch.setattr(planted_faults, "FAULTS", fault)
    effort = Effort(attacks=1, people=1, shadows=1, releases=3)
    found = list(mechanism_findings(domain, epsilon=3.0, delta=1e-5, effort=effort, noise=seeded(10)))
    assert published(found) == tuple(found)
    assert {f.block for f in found} == {"mechanism"}
    assert {f.measure.split(", ")[0] for f in found} == {"each release", "masked sums"}
    # Three releases are too few for the controls with a third of the noise.
    assert [f.measure for f in found if f.verdict is not Verdict.PASS and "third" not in f.measure] == []
    assert len([f for f in found if "planted fault" in f.measure]) == 2


def test_a_domain_with_nothing_to_choose_says_that_nothing_was_tested():
    columns = [
        ("male", Categories((0.0, 1.0)), Role.FEATURE),
        ("death", Times((0.0, 30.0, 90.0), (0.0, 90.0)), Role.OUTCOME),
    ]
    (row,) = mechanism_findings(table_domain(columns), epsilon=1.0, delta=1e-5)
    assert row.verdict is Verdict.NOT_TESTED


def test_a_fault_that_is_not_found_fails_its_row(subject, monkeypatch):
    monkeypatch.setattr(planted_faults, "FAULTS", {"none": lambda same: same})
    (row,) = planted_faults.findings(subject, noise=seeded(11))
    assert row.verdict is Verdict.FAIL
    assert row.detail == "not caught"
