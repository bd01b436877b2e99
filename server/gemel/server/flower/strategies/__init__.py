"""Strategies by name, one file each: a file here that says `STRATEGY = …` is one, under the file's name.

A study chooses by `strategy.algorithm`, or by `aggregation.rule` where that is a robust one.
"""

from __future__ import annotations

import importlib
import importlib.util
import re

from gemel.core.errors import GemelError
from gemel.core.study import AggregationRule, Study
from gemel.server.strategy import Strategy

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


def strategy_of(study: Study) -> Strategy:
    """The strategy that a study asks for. Raises GEM343 when none of that name is installed."""
    rule = study.aggregation.rule
    name = study.strategy.algorithm if rule is AggregationRule.MEAN else rule
    return strategy_class(name.value)(study)


def strategy_class(name: str) -> type[Strategy]:
    """The class that the file of this name declares. Raises GEM343 when there is none."""
    module = f"{__name__}.{name}"
    if not _NAME.fullmatch(name) or importlib.util.find_spec(module) is None:
        raise GemelError("GEM343", f"No strategy {name!r} is installed here.")
    declared = getattr(importlib.import_module(module), "STRATEGY", None)
    if not (isinstance(declared, type) and issubclass(declared, Strategy)):
        raise GemelError("GEM343", f"{name!r} is no strategy.")
    return declared
