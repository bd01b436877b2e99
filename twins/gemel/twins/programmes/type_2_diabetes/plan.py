"""How this programme is trained under privacy unless a study says otherwise.

Chosen on simulated people that no benchmark or test is measured on (seed 101), in six hospitals, at ε = 8 and δ = 1e-5 in total.
"""

from __future__ import annotations

from gemel.twins.definition import DefaultTraining

DEFAULT_TRAINING = DefaultTraining(
    rounds=10,
    local_steps=6,
    learning_rate=0.3,
    momentum=0.6,
    max_grad_norm=4.0,
    sample_rate=1.0,
    training_share=0.83,
    synthesis_share=0.16,
    count_share=0.01,
)
