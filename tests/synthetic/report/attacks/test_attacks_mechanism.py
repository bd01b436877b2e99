"""The audit of the measuring: the real one holds what it promises, and each planted fault is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemel.privacy.audit.report import AuditReport
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import add_noise, count
from gemel.synthetic.report.attacks import Verdict, mechanism, planted_faults, published

REFITS = 300


def seeded(number: int) -> NoiseSource:
    return NoiseSource.for_tests(number)


@pytest.fixture(scope="module")
def checks(subject):
    return list(mechanism.attack(subject, refits=REFITS, noise=seeded(1)))


def test_the_real_mechanism_passes_every_check(checks):
    assert AuditReport("the anchored tree", tuple(checks)).broken == ()
    assert len(checks) == 4


def test_the_lower_bound_is_below_the_claim_and_above_nothing(checks, subject):
    bound = checks[2].numbers["measured"]
    assert 0.3 < bound <= subject.epsilon


def test_a_third_of_the_noise_is_seen(subject):
    for check in mechanism.control(subject, refits=REFITS, noise=seeded(2)):
        assert check.control
        assert check.passed, check.measured
        assert check.numbers["measured"] > subject.epsilon


@pytest.mark.parametrize("name", planted_faults.FAULTS)
def test_a_planted_fault_is_caught(subject, name):
    broken = planted_faults.caught_by(planted_faults.FAULTS[name], subject, refits=REFITS, noise=seeded(3))
    assert broken is not None
    assert broken.promise.startswith(
        {
            "exact n": "Nothing that is released",
            "data-derived domain": "Nothing that is released",
            "sensitivity 1 instead of m": "Who sees everything",
            "float noise": "What is released are whole numbers",
        }[name]
    )


def test_where_nobody_is_at_two_hospitals_a_sensitivity_of_one_is_no_fault(subject):
    alone = replace(subject, sites=1)
    fault = planted_faults.FAULTS["sensitivity 1 instead of m"]
    assert planted_faults.caught_by(fault, alone, refits=REFITS, noise=seeded(4)) is None


def test_no_noise_at_all_is_caught_too(subject):
    def release(hospitals):
        noisy = subject.release(hospitals)

        def draw(noise):
            released = noisy(noise)
            exact = mechanism.sum_tables(released.queries, released.domain, hospitals)
            return replace(released, arrays={**released.arrays, **exact})

        return draw

    first = next(mechanism.attack(replace(subject, release=release), refits=5, noise=seeded(5)))
    assert not first.passed


def test_a_release_of_one_hospital_is_what_the_rounds_of_the_mechanism_give(subject):
    plan = subject.plan
    draw = mechanism.releasing(plan, sites=1)(subject.hospitals[:1])
    released = draw(seeded(6))
    own = add_noise(plan.one_ways, count(plan.one_ways, plan.domain, subject.hospitals[0]), seeded(6))
    for name, table in own.items():
        assert np.array_equal(released.arrays[name], table)


def test_the_canary_has_levels_that_nobody_else_has(subject):
    for name, levels in subject.canary.items():
        assert all(levels[0] not in codes[name] for codes in subject.hospitals)
    grown = [len(next(iter(codes.values()))) for codes in subject.with_canary]
    assert grown == [61, 61, 60]


def test_scores_lie_about_nothing_without_and_about_one_with_the_canary(subject):
    score = mechanism.scoring(subject)
    noise = seeded(7)
    means = []
    for hospitals in (subject.hospitals, subject.with_canary):
        draw = subject.release(hospitals)
        means.append(np.mean([score(draw(noise)) for _ in range(150)]))
    # The standard error is 1 / (mu sqrt(150)), mu being near 0.67.
    assert means[0] == pytest.approx(0, abs=0.5)
    assert means[1] == pytest.approx(1, abs=0.5)


def test_findings_of_the_mechanism_may_be_published(checks):
    found = list(mechanism.findings(iter(checks)))
    assert published(found) == tuple(found)
    assert all(f.verdict is Verdict.PASS for f in found)


def test_a_fault_that_is_not_found_fails_its_row(subject, monkeypatch):
    monkeypatch.setattr(planted_faults, "FAULTS", {"none": lambda same: same})
    (row,) = planted_faults.findings(subject, refits=60, noise=seeded(8))
    assert row.verdict is Verdict.FAIL
    assert row.detail == "not caught"
