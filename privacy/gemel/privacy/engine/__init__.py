"""Patient-level DP-SGD: each patient's gradient is bounded alone, summed, noised, averaged.

`DpTrainer` is all that a node needs. Layers with a rule (`rules`) go through in whole batches, any other model one patient
at a time, for the same numbers. `register_with_opacus` lends the rules to Opacus' own modes.
"""

from gemel.privacy.engine.local_round import train_round
from gemel.privacy.engine.opacus_kernels import register_with_opacus
from gemel.privacy.engine.probe import check_trainable
from gemel.privacy.engine.pull import Pull
from gemel.privacy.engine.trainer import DpTrainer

__all__ = ["DpTrainer", "Pull", "check_trainable", "register_with_opacus", "train_round"]
