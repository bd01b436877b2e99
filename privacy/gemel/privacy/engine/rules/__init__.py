"""Layers whose patients' gradients come in closed form: one module a kind, found by type. Importing registers all."""

from gemel.privacy.engine.rules import attention, convolution, embedding, linear, normalisation, recurrent
from gemel.privacy.engine.rules.base import LayerRule, Prepared, Tap, register_rule, rule_of

__all__ = [
    "LayerRule",
    "Prepared",
    "Tap",
    "attention",
    "convolution",
    "embedding",
    "linear",
    "normalisation",
    "recurrent",
    "register_rule",
    "rule_of",
]
