"""Adaptive server optimisers, by Flower's own classes: the mean of a round is a gradient, and moments are remembered.

Source: Reddi et al., ICLR 2021. The state is Flower's two moments and its round: m.NAME, v.NAME float64, round (1,) int64.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.serverapp.strategy.fedopt import FedOpt
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.errors import GemelError
from gemel.server.flower.strategies.buffered import targets
from gemel.server.strategy import Strategy, Update, weights_of

# Flower counts what it averages in its log; the run's own log has that, with names.
logging.getLogger("flwr").addFilter(lambda record: record.funcName != "_check_and_log_replies")


class FlowerOptimiser(Strategy):
    """One of Flower's FedOpt strategies, given each round what it would remember."""

    @abstractmethod
    def flower(self) -> FedOpt:
        """Flower's strategy with the study's numbers, fresh."""

    def start(self, model: Arrays) -> Arrays:
        """Moments of zero, before the first round."""
        moments = {
            f"{moment}.{name}": np.zeros(model[name].shape, np.float64) for moment in "mv" for name in model
        }
        return {**moments, "round": np.zeros(1, np.int64)}

    def aggregate(self, model: Arrays, updates: Sequence[Update], state: Arrays) -> tuple[Arrays, Arrays]:
        """See `Strategy.aggregate`. Raises GEM403 when what comes out is not finite."""
        flower, number = self.flower(), int(state["round"][0]) + 1
        flower.current_arrays = {name: model[name].astype(np.float64) for name in sorted(model)}
        flower.m_t, flower.v_t = ({name: state[f"{m}.{name}"] for name in sorted(model)} for m in "mv")
        weights = weights_of(updates)
        replies = [
            _reply(arrays, weight=weights[site])
            for site, arrays in targets(model, updates, exponent=self.study.pace.staleness_exponent).items()
        ]
        moved, _ = flower.aggregate_train(number, replies)
        if moved is None or flower.m_t is None or flower.v_t is None:
            raise GemelError("GEM403", "Flower made no model of the round's updates.")
        new = {name: moved[name].numpy().astype(np.float32) for name in model}
        if not all(bool(np.isfinite(array).all()) for array in new.values()):
            raise GemelError("GEM403", "The model is no longer finite.")
        moments = {f"m.{n}": _float64(a) for n, a in flower.m_t.items()}
        moments |= {f"v.{n}": _float64(a) for n, a in flower.v_t.items()}
        return new, {**moments, "round": np.array([number], np.int64)}


def _reply(arrays: Arrays, *, weight: float) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()}),
            "metrics": MetricRecord({"num-examples": weight}),
        }
    )
    # Flower's own constructor asks which run it is in; no run is needed to average.
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
    )
    return make_message(metadata, content)


def _float64(array: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.asarray(array, np.float64)
