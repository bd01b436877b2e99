"""Numbers of a physiology: each with its unit, its source, and a mark that says how far it was checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """How a published number came here."""

    VERIFIED = "V"  # read in the source itself, its abstract, a registry record, or a curated model file
    SECOND_HAND = "2"  # read in somebody's code or specification that cites the source
    COMPUTED = "C"  # computed from data or equations that are named beside it
    UNVERIFIED = "U"  # from memory, or chosen: it may support no claim alone


class Scale(StrEnum):
    """On which scale people differ in a parameter, and an encoder moves it."""

    NATURAL = "natural"  # value + effect
    LOG = "log"  # value * exp(effect): for what is positive
    LOGIT = "logit"  # between low and high


@dataclass(frozen=True)
class Parameter:
    """One number of a physiology, and how people differ in it.

    Attributes:
        value: The typical person's, in `unit` (UCUM).
        spread: The standard deviation between people on `scale`; 0 for what is one for all.
        low, high: What the twin keeps every person's within.
        source: Where value and spread were read; for a number that was chosen, by whom and why.
    """

    name: str
    title: str
    value: float
    unit: str
    source: str
    mark: Mark
    low: float
    high: float
    spread: float = 0.0
    scale: Scale = Scale.LOG

    def __post_init__(self) -> None:
        if not (self.low <= self.value <= self.high and self.spread >= 0 and self.source):
            raise ValueError(f"parameter {self.name}: value, bounds, spread or source do not fit")
        if self.scale is Scale.LOG and self.low <= 0:
            raise ValueError(f"parameter {self.name}: a logarithmic scale needs low > 0")


@dataclass(frozen=True)
class StateVariable:
    """One variable (of an ODE) or one state (of a chain): its unit and the range in which it means something."""

    name: str
    title: str
    unit: str
    low: float
    high: float
