"""Patient-level DP-SGD: each patient's gradient is bounded alone, summed, noised, averaged."""

from gemel.privacy.engine.trainer import DpTrainer, _PatientGradients, check_trainable

__all__ = ["DpTrainer", "_PatientGradients", "check_trainable"]
