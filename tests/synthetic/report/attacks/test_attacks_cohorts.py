"""Attacks on cohorts: what copies is caught, what never saw the patients is not, and every number is what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gemel.synthetic.report.attacks import (
    Effort,
    Verdict,
    attack_findings,
    inference,
    linkability,
    published,
    singling_out,
)
from gemel.synthetic.report.attacks.excess import Attacked, excess_finding
from gemel.synthetic.report.attacks.membership import (
    Candidates,
    attack,
    attack_with_shadows,
    auc,
    rows,
    rows_of,
)
from gemel.synthetic.report.attacks.people import People, people_of_codes, people_of_values
from gemel.synthetic.report.attacks.singling_out import AT_LEAST, EQUAL, MISSING, Condition
from gemel.synthetic.report.evidence import Evidence

EFFORT = Effort(attacks=300, people=600, shadows=4, releases=1)


@pytest.fixture(scope="module")
def found(make_up, domain):
    """Cohorts that never saw the training patients: the same law, and nothing of them."""
    evidence = Evidence(domain, make_up(1000, 2), make_up(1000, 3))
    draws = [make_up(1000, seed) for seed in (1, 11, 12)]
    return list(attack_findings(evidence, draws, secrets=["male", "race"], effort=EFFORT, seed=1))


def test_a_copy_of_the_training_data_is_caught_by_every_attack(found):
    controls = [f for f in found if f.control]
    assert {f.block for f in controls} == {"membership", "singling out", "linkability", "inference"}
    assert [f.measure for f in controls if not f.passed] == []
    assert next(f for f in controls if f.block == "membership").value >= 0.95


def test_a_cohort_that_never_saw_the_patients_is_accused_by_none(found):
    attacks = [f for f in found if not f.control]
    assert len(attacks) == 6 + 2 + 3 + 6
    assert [f.measure for f in attacks if f.verdict is Verdict.FAIL] == []


def test_every_exact_number_about_patients_is_kept_out_of_a_public_report(found):
    assert found
    assert published(found) == ()


def test_rows_carry_value_interval_baseline_threshold_and_verdict(found):
    for finding in found:
        said = finding.as_dict()
        assert said["verdict"] in ("pass", "fail", "not tested")
        assert said["threshold"]
        assert said["baseline"] is not None
        if finding.value is not None:
            assert finding.low <= finding.value <= finding.high


def test_a_cohort_with_every_fourth_training_patient_in_it_is_found_out(independent):
    training = independent.training
    random = np.random.default_rng(0)
    taken = random.permutation(1000)[:250]
    leaky = {
        name: np.concatenate([levels[:750], training[name][taken]])
        for name, levels in independent.draws[0].items()
    }
    candidates = Candidates.of(independent.domain, training, independent.holdout, most=1000, seed=0)
    first = next(attack(candidates, [leaky]))
    assert first.low > 0.55
    assert first.verdict is Verdict.FAIL


def test_shadow_cohorts_find_members_of_a_generator_that_copies_and_none_of_one_that_does_not(independent):
    sides = independent
    candidates = Candidates.of(sides.domain, sides.training, sides.holdout, most=400, seed=0)

    def aucs(cohort, generator):
        return next(
            attack_with_shadows(
                candidates, [cohort], generator, sides.training, sides.holdout, shadows=6, seed=0
            )
        ).value

    copying = aucs(sides.training, lambda codes, seed: codes)
    blind = aucs(
        sides.draws[0],
        lambda codes, seed: rows_of(sides.draws[0], np.random.default_rng(seed).integers(0, 1000, 1000)),
    )
    assert copying > 0.8
    assert 0.4 < blind < 0.6


def test_the_most_isolated_are_chosen_without_a_look_at_who_was_in(independent):
    candidates = Candidates.of(
        independent.domain, independent.training, independent.holdout, most=400, seed=0
    )
    turned = replace(candidates, present=~candidates.present)
    assert candidates.isolated().sum() == round(0.05 * 800)
    assert np.array_equal(candidates.isolated(), turned.isolated())


def test_members_control_patients_and_their_reference_are_different_people():
    training, holdout = {"who": np.arange(1000)}, {"who": np.arange(1000, 1800)}
    candidates = Candidates.of(None, training, holdout, most=1000, seed=3)
    assert set(candidates.codes["who"][candidates.present]) == set(range(1000))
    assert set(candidates.codes["who"][~candidates.present]) == set(range(1000, 1800))
    for half, reference in enumerate(candidates.references):
        assert len(reference["who"]) == 400
        assert not set(candidates.codes["who"][candidates.half == half]) & set(reference["who"])
    # Members are held against either half as often as control patients are.
    assert candidates.half[candidates.present].mean() == pytest.approx(0.5, abs=0.05)


def test_the_interval_of_true_positives_covers_though_the_cut_is_uncertain():
    random = np.random.default_rng(0)
    present, covered = np.arange(2000) < 1000, 0
    for _ in range(200):
        third = list(rows("no better than chance", random.random(2000), present, present))[2]
        covered += third.low <= 0.01 <= third.high
    assert covered >= 190


def test_auc_is_that_of_scikit_learn_and_its_interval_covers():
    random = np.random.default_rng(0)
    present = random.random(3000) < 0.4
    scores = np.round(random.normal(0.3 * present, 1), 1)
    found = auc(scores, present)
    assert found.value == pytest.approx(roc_auc_score(present, scores))
    covered = 0
    for _ in range(200):
        some = random.random(300) < 0.5
        one = auc(random.normal(0.5 * some, 1), some)
        covered += one.low <= 0.6382 <= one.high  # normal distribution function of 0.5 / sqrt(2)
    assert 180 <= covered <= 198


def test_few_patients_leave_membership_untested():
    present = np.arange(12) < 6
    found = list(rows("few", np.arange(12.0), present, np.ones(12, bool)))
    assert [f.verdict for f in found] == [Verdict.NOT_TESTED] * 3


def test_true_positives_at_one_percent_are_counted_by_hand():
    present = np.arange(1200) < 200
    scores = np.concatenate([np.full(20, 5.0), np.zeros(180), np.full(10, 4.0), np.zeros(990)])
    third = list(rows("by hand", scores, present, present))[2]
    assert third.value == pytest.approx(0.1)
    assert third.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("hits", "control", "tries", "verdict"),
    [
        (200, 200, 2000, Verdict.PASS),
        (800, 200, 2000, Verdict.FAIL),
        (
            370,
            200,
            2000,
            Verdict.FAIL,
        ),  # not above the threshold for certain, but 2,000 attacks should have settled it
        (37, 20, 200, Verdict.NOT_TESTED),
        (80, 20, 200, Verdict.FAIL),
        (2000, 1999, 2000, Verdict.NOT_TESTED),  # a control without failures leaves nothing to find
    ],
)
def test_an_excess_passes_only_by_its_upper_limit_and_fails_only_with_enough_attacks(
    hits, control, tries, verdict
):
    assert excess_finding("x", "y", Attacked.of_counts(hits, tries, control, tries, 0.0)).verdict is verdict


def test_the_interval_of_the_excess_covers():
    random = np.random.default_rng(0)
    truth, covered = (0.3 - 0.2) / 0.8, 0
    for _ in range(400):
        attacked = Attacked.of_counts(random.binomial(500, 0.3), 500, random.binomial(500, 0.2), 500, 0.0)
        _, low, high = attacked.excess
        covered += low <= truth <= high
    assert 366 <= covered <= 396


def a_study_of_inference(random, *, leak, usual=True):
    """Targets who are easy or hard to guess of, and an attack that finds `leak` of what is left of training patients."""
    easy = [random.beta(1.6, 0.4, size) for size in (1500, 700)]
    found = [random.binomial(3, share) / 3 for share in easy]
    found[0] = np.where(random.random(1500) < leak, 1.0, found[0])
    told = tuple(np.stack([share + random.normal(0, 0.05, len(share))]) for share in easy)
    return Attacked(found[0], found[1], 0.5, told if usual else None)


def test_the_adjusted_interval_of_the_excess_covers_and_is_narrower():
    random = np.random.default_rng(0)
    covered, widths, plain = 0, [], []
    for _ in range(300):
        attacked = a_study_of_inference(random, leak=0.1)
        _, low, high = attacked.excess
        covered += low <= 0.1 <= high
        widths.append(high - low)
        _, low, high = replace(attacked, usual=None).excess
        plain.append(high - low)
    assert 274 <= covered <= 297
    assert np.mean(widths) < 0.75 * np.mean(plain)


def test_what_is_easy_to_guess_of_whom_was_kept_out_is_no_excess():
    """Chance put patients who are hard to guess of among those kept out: the plain difference is fooled, the adjusted one not."""
    random = np.random.default_rng(1)
    easy = random.beta(8, 2, 3000), random.beta(6, 4, 1500)
    found = tuple((random.random(len(share)) < share).astype(float) for share in easy)
    told = tuple(share[None] for share in easy)
    attacked = Attacked(*found, 0.5, told)
    assert excess_finding("x", "y", replace(attacked, usual=None)).verdict is Verdict.FAIL
    assert abs(attacked.excess[0]) < 0.09


def test_a_target_counts_once_however_many_draws_were_attacked():
    random = np.random.default_rng(0)
    one = [(random.random(600) < 0.3).astype(float) for _ in range(2)]
    assert Attacked(*one, 0.0).excess == pytest.approx(
        Attacked.of_counts(int(one[0].sum()), 600, int(one[1].sum()), 600, 0.0).excess
    )
    # Five draws that all agree say no more than one; five that differ say more.
    agree = [np.mean([part] * 5, axis=0) for part in one]
    assert Attacked(*agree, 0.0).excess == pytest.approx(Attacked(*one, 0.0).excess)
    differ = [random.binomial(5, 0.3, 600) / 5 for _ in range(2)]
    _, low, high = Attacked(*differ, 0.0).excess
    assert high - low < 0.5 * np.subtract(*Attacked(*one, 0.0).excess[:0:-1])


def test_what_is_usual_is_told_by_other_patients_than_the_target(make_up, domain):
    """Who asks himself is always right: a control patient's neighbours must all be of the other half."""
    control = people_of_values(domain, make_up(400, 5))
    folds = np.arange(400) % 2
    known, wanted = [control.names.index("age"), control.names.index("weight")], control.names.index("pulse")
    (mine, others) = inference._usual(control, control, folds, known, wanted)
    assert others.shape == mine.shape == (4, 400)
    # As training patients they find themselves in one of the two halves.
    assert mine[0].mean() > others[0].mean() + 0.03


def test_conditions_hold_for_whom_they_say():
    values = np.array([[1.0, 50.0], [1.0, 70.0], [0.0, np.nan]])
    assert Condition((0, 1), (EQUAL, AT_LEAST), (1.0, 60.0)).holds(values).tolist() == [False, True, False]
    assert Condition((1,), (MISSING,), (np.nan,)).holds(values).tolist() == [False, False, True]


def test_singling_out_by_several_columns_starts_from_what_one_virtual_person_has(independent):
    virtual = independent.virtual[0]
    for condition in singling_out._on_columns(virtual, 50, np.random.default_rng(0)):
        assert np.count_nonzero(condition.holds(virtual.values)) == 1


def test_training_and_control_are_tried_on_equally_many_people(make_up, lay_out):
    sides = lay_out(make_up(800, 1), make_up(2100, 2), make_up(700, 3))
    virtual, (training, control) = sides.virtual[0], sides.people
    conditions = singling_out._on_columns(virtual, 200, np.random.default_rng(0))
    attacked = singling_out.try_conditions(conditions, training, control, baseline=conditions)
    each = [
        sum(
            np.count_nonzero(c.holds(training.values[(i % 3) * 700 : (i % 3 + 1) * 700])) == 1
            for i, c in enumerate(conditions)
        )
    ]
    assert [attacked.training.sum()] == each
    assert attacked.baseline == pytest.approx(attacked.control_rate)


def test_a_link_is_made_where_two_sources_meet_in_one_virtual_person():
    values = np.random.default_rng(0).random((300, 6))
    people = People(tuple("abcdef"), values, (1.0,) * 6)
    assert linkability._links(people, people, (0, 1, 2), (3, 4, 5)).all()
    strangers = People(people.names, np.random.default_rng(1).random((300, 6)), people.spans)
    assert linkability._links(strangers, people, (0, 1, 2), (3, 4, 5)).sum() < 90


def test_nobody_guesses_what_he_knows(independent):
    virtual, (training, control) = independent.virtual[0], independent.people
    with pytest.raises(ValueError, match="diabetes"):
        list(
            inference.attack(
                [virtual],
                training,
                control,
                secret="diabetes",
                knowledge=[range(len(virtual.names))],
                seed=0,
            )
        )


def test_a_guess_counts_when_it_is_near_and_missing_is_a_value_too():
    def one(*values):
        return People(("a",), np.array(values, float)[:, None], (100.0,))

    guesses = np.array([50, 50, np.nan, np.nan])
    assert inference._found(guesses, one(54, 60, np.nan, 3), 0).tolist() == [True, False, True, False]


def test_distances_are_those_of_gower_with_missing_beside_missing_alike():
    mine = People(("number", "category"), np.array([[10.0, 1], [np.nan, 0]]), (50.0, 0.0))
    others = People(mine.names, np.array([[35.0, 1], [np.nan, 1], [10.0, 2]]), mine.spans)
    ((_, found),) = mine.distances(others, (0, 1))
    assert found.tolist() == [[0.5, 1.0, 1.0], [2.0, 1.0, 2.0]]


def test_the_nearest_are_the_nearest(make_up, domain):
    one, other = (people_of_values(domain, make_up(n, n)) for n in (70, 90))
    away, which = one.nearest(other, range(len(one.names)), 3)
    whole = np.concatenate([d for _, d in one.distances(other, range(len(one.names)))])
    assert np.allclose(away, np.sort(whole, axis=1)[:, :3])
    assert np.allclose(np.take_along_axis(whole, which, axis=1), away)


def test_levels_and_values_tell_time_and_event_apart(make_up, domain):
    raw = make_up(50, 0)
    for people in (people_of_values(domain, raw), people_of_codes(domain, domain.encode_columns(raw))):
        event = people.values[:, people.names.index("death, event")]
        assert np.array_equal(event == 1, raw["death"][1] == 1)
        assert np.array_equal(
            np.isnan(people.values[:, people.names.index("albumin")]), np.isnan(raw["albumin"])
        )
