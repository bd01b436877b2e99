"""What a task of a study does, in words for people who decide on it."""

from __future__ import annotations

from typing import Any

from gemel.core.mechanism import Charge, Mechanism, MechanismKind, Share

_TASKS = {
    "count": "How many patients there are, with noise",
    "describe": "Statistics of the cohort, with noise",
    "evaluate": "Tables of how well the model predicts, with noise",
    "personal": "Tables of how well the hospital's own model predicts, with noise; that model stays",
    "strata": "How many patients of each kind there are at the start, with noise",
    "synthesise/1": "How many patients have each value, with noise",
    "synthesise/2": "How strongly each two kinds of value go together, with noise",
    "synthesise/3": "Tables of pairs of values, from which virtual patients are drawn, with noise",
}
_SHARES = {
    Share.EVERYONE: "all patients of the study",
    Share.TRAINING: "the patients used for training (about four fifths)",
    Share.HELD_OUT: "the patients kept apart for testing (about one fifth)",
}
_MECHANISMS = {
    MechanismKind.GAUSSIAN: "a sum to which each patient adds at most 1 unit, plus Gaussian noise of {z:.4g} units",
    MechanismKind.POISSON_GAUSSIAN: "a sum over a secret random sample (each patient with probability {q:.3g}) to which "
    "each adds at most 1 unit, plus Gaussian noise of {z:.4g} units",
    MechanismKind.DISCRETE_GAUSSIAN: "counts of patients, each plus whole-numbered Gaussian noise of {z:.4g}",
    MechanismKind.LAPLACE: "a number that one patient changes by at most 1 unit, plus Laplace noise of {z:.4g} units",
    MechanismKind.DISCRETE_LAPLACE: "counts of patients, each plus whole-numbered Laplace noise of {z:.4g}",
    MechanismKind.EXPONENTIAL: "a choice among given answers, made at random in favour of better ones (ε {e:.4g})",
}
_NUMBERED = {
    "train": "An update of the model (round {}), with noise",
    "validate": "Tables of how well the model predicts after round {}, with noise",
    "visits": "An update of the model of visits (round {}), from which virtual visits are drawn, with noise",
    "cross": "Tables of how well the model of {} predicts here, with noise",
}
_SEVERAL = {
    "train": "An update of the model in each of {} rounds, with noise",
    "validate": "Tables of how well the model predicts, {} times, with noise",
    "visits": "An update of the model of visits in each of {} rounds, with noise",
    "cross": "Tables of how well the models of {} hospitals predict here, with noise",
}


def words_of(charge: Charge) -> dict[str, Any]:
    """What a task releases, on whom, and by which noise: `words`, `whom`, `how`."""
    kind, _, which = charge.task.partition("/")
    return {
        "words": _TASKS[charge.task] if charge.task in _TASKS else _NUMBERED[kind].format(which),
        "whom": _SHARES[charge.share],
        "how": [_mechanism(mechanism) for mechanism in charge.mechanisms],
    }


def words_of_all(charge: Charge, *, times: int) -> str:
    """What several tasks of one kind release."""
    kind = charge.task.partition("/")[0]
    return _SEVERAL[kind].format(times)


def _mechanism(mechanism: Mechanism) -> str:
    z = mechanism.noise_multiplier
    words = _MECHANISMS[mechanism.kind].format(z=z, q=mechanism.sample_rate, e=1 / z)
    return words if mechanism.count == 1 else f"{mechanism.count} times: {words}"
