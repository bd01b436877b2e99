"""Assimilation: what is observed of an individual moves the twin's parameters and state.

It happens at the hospital. Its result is never released, so that it passes no gate, is charged to no ledger and costs no
budget; nothing in this package reaches either. Four assimilators have one interface (`Assimilator`):

    MaximumAPosteriori     few parameters, few observations, any smooth likelihood
    HiddenMarkovFilter     a chain whose state is seen through something else; exact
    EnsembleKalmanFilter   an ODE whose state is disturbed as well, many observations, nearly normal
    ParticleFilter         the same where it is far from normal
"""

from gemel.twins.assimilation.ensemble import EnsemblePosterior
from gemel.twins.assimilation.ensemble_kalman import EnsembleKalmanFilter
from gemel.twins.assimilation.hidden_markov import (
    BinnedEmission,
    ChainPosterior,
    Emission,
    HiddenMarkovFilter,
    NormalEmission,
)
from gemel.twins.assimilation.maximum_a_posteriori import (
    LaplacePosterior,
    LogLikelihood,
    MaximumAPosteriori,
    course_log_likelihood,
    ode_log_likelihood,
)
from gemel.twins.assimilation.measurements import (
    MeasurementError,
    Measurements,
    first_of_each,
    measurements_of,
)
from gemel.twins.assimilation.particle import ParticleFilter
from gemel.twins.assimilation.posterior import Assimilator, Posterior
from gemel.twins.assimilation.twinness import Twinness, error_by_count, twinness

__all__ = [
    "Assimilator",
    "BinnedEmission",
    "ChainPosterior",
    "Emission",
    "EnsembleKalmanFilter",
    "EnsemblePosterior",
    "HiddenMarkovFilter",
    "LaplacePosterior",
    "LogLikelihood",
    "MaximumAPosteriori",
    "MeasurementError",
    "Measurements",
    "NormalEmission",
    "ParticleFilter",
    "Posterior",
    "Twinness",
    "course_log_likelihood",
    "error_by_count",
    "first_of_each",
    "measurements_of",
    "ode_log_likelihood",
    "twinness",
]
