"""Flower's legacy SecAgg+ (its own workflow and client mod), driven in this process without a network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity

CLIPPING, LEVELS, MODULUS = 8.0, 1 << 22, 1 << 32
MASKING_STAGE = 2
CONFIGS = "secaggplus_configs"

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # as a ServerApp's process would

logging.getLogger("flwr").setLevel(logging.CRITICAL)


class _Grid:
    """Hands each message to its node's mod, and counts what the node answers in bytes."""

    def __init__(self, update: Callable[[int], Any], dropped: set[int], watch: Any) -> None:
        self.update, self.dropped, self.watch = update, dropped, watch
        self.contexts: dict[int, Context] = {}
        self.stage = 0
        self.sent: dict[int, int] = {}

    def send_and_receive(self, messages: list[Any], timeout: float | None = None) -> list[Any]:
        answers = [self._one(m) for m in messages if not self._is_gone(m.metadata.dst_node_id)]
        self.stage += 1
        return answers

    def _is_gone(self, node: int) -> bool:
        return self.stage >= MASKING_STAGE and node in self.dropped

    def _one(self, message: Any) -> Any:
        node = message.metadata.dst_node_id
        if node not in self.contexts:
            self.contexts[node] = Context(0, node, {}, RecordDict(), {})
        # The workflow gives one content to several nodes, and the mod takes its stage out: a network would copy it.
        configs = ConfigRecord(dict(message.content.config_records[CONFIGS]))
        own = Message(RecordDict({CONFIGS: configs}), metadata=message.metadata)
        answer = secaggplus_mod(own, self.contexts[node], self._fit)
        self.sent[node] = self.sent.get(node, 0) + _size(answer.content)
        return answer

    def _fit(self, message: Any, _context: Any) -> Any:
        with self.watch.off():
            parameters = ndarrays_to_parameters([self.update(message.metadata.dst_node_id - 1)])
            result = FitRes(Status(Code.OK, ""), parameters, 1000, {})
            return SimpleNamespace(content=recorddict_compat.fitres_to_recorddict(result, keep_input=False))


class _Strategy:
    def __init__(self, nodes: int) -> None:
        self.nodes, self.parameters = nodes, None

    def configure_fit(self, _round: int, parameters: Any, _manager: Any) -> list[Any]:
        return [(SimpleNamespace(node_id=i + 1), FitIns(parameters, {})) for i in range(self.nodes)]

    def aggregate_fit(
        self, _round: int, results: list[Any], _failures: list[Any]
    ) -> tuple[Any, dict[str, Any]]:
        self.parameters = results[0][1].parameters
        return None, {}


def _size(content: RecordDict) -> int:
    return sum(
        sum(len(v) if isinstance(v, bytes) else 8 for v in (value if isinstance(value, list) else [value]))
        for record in content.config_records.values()
        for value in record.values()
    )


def aggregate(
    *, nodes: int, threshold: int, dropped: set[int], update: Callable[[int], Any], watch: Any
) -> tuple[Any, float]:
    """One aggregation: the mean, and the bytes that a surviving node sent. `update(i)` gives node i's float array."""
    grid = _Grid(update, {i + 1 for i in dropped}, watch)
    strategy = _Strategy(nodes)
    context = LegacyContext(
        Context(0, 0, {}, RecordDict(), {}),
        strategy=strategy,  # type: ignore[arg-type]
        client_manager=SimpleNamespace(num_available=lambda: nodes),  # type: ignore[arg-type]
    )
    context.state.config_records["config"] = ConfigRecord({"current_round": 1})
    empty = ndarrays_to_parameters([np.zeros(1)])
    context.state.array_records["parameters"] = recorddict_compat.parameters_to_arrayrecord(empty, False)
    workflow = SecAggPlusWorkflow(
        1.0,
        threshold / nodes,
        max_weight=1000.0,
        clipping_range=CLIPPING,
        quantization_range=LEVELS,
        modulus_range=MODULUS,
    )
    with watch.on():
        workflow(grid, context)  # type: ignore[arg-type]
    if strategy.parameters is None:
        raise RuntimeError("the legacy workflow halted")
    (mean,) = parameters_to_ndarrays(strategy.parameters)
    survivors = [node for node in grid.sent if node not in grid.dropped]
    return mean, float(np.mean([grid.sent[node] for node in survivors]))
