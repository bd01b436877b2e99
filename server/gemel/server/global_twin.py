"""The global twin of a run, from version to version, with what its strategy remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemel.core.arrays import Arrays, ArraySpec, check_arrays, pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.server.home import RunFolder, model_name
from gemel.server.run_state import RunState
from gemel.server.strategy import Strategy, Update
from gemel.synthetic.releases import starting_model, travelling


class GlobalTwin:
    """Version 0 is where training starts; each move makes the next one. Every version is a file that is never changed.

    A move is decided by the run's state, which names it: files of a move that the state does not name are a crash's, and
    are written again with the same bits.
    """

    def __init__(self, study: Study, programme: Programme, run: RunFolder, state: RunState) -> None:
        from gemel.server.flower.strategies import strategy_of  # brings Flower

        self._run, self._state = run, state
        self._strategy: Strategy = strategy_of(study)
        self._specs = travelling(programme, study.strategy)
        start = starting_model(study, programme)
        self._memory_specs = {
            name: ArraySpec(array.shape, array.dtype.name)
            for name, array in self._strategy.start(start).items()
        }
        if "start_model_sha256" not in state.data:
            state.data["start_model_sha256"] = sha256_hex(run.save_model(model_name(0), start))
            if self._memory_specs:
                run.save_memory(0, self._strategy.start(start))
        self.version, self.sha256 = 0, str(state.data["start_model_sha256"])
        self._memory_sha256 = ""
        if (moved := state.moved) is not None:
            self.version, self.sha256 = moved["version"], moved["model_sha256"]
            self._memory_sha256 = moved["strategy_sha256"]
        self._model = self._newest()
        self._memory = self._load_memory(self.version, sha256=self._memory_sha256)
        self._packed: bytes | None = None

    def load(self, version: int) -> Arrays:
        """A version of the twin, as views of its file."""
        return self._model if version == self.version else self._run.map_model(model_name(version))

    def _newest(self) -> Arrays:
        """The version that the state names. Raises GEM513 when its file is another."""
        if self._run.sha256_of_model(model_name(self.version)) != self.sha256:
            raise GemelError("GEM513", f"{model_name(self.version)} is not the model that the run made.")
        return self._run.load_model(model_name(self.version), self._specs)

    @property
    def model(self) -> Arrays:
        """The newest version."""
        return self._model

    def packed(self) -> bytes:
        """The newest version as it is sent for evaluation."""
        if self._packed is None:
            self._packed = pack_arrays(self._model)
        return self._packed

    def packed_for(self, site: str) -> bytes:
        """What a site is sent to train from: the newest version, and what the strategy puts beside it."""
        inputs = self._strategy.inputs(self._model, self._memory, site)
        return self.packed() if inputs is self._model else pack_arrays(inputs)

    def packed_at(self, version: int, site: str) -> bytes:
        """What a site was sent when an earlier version was the newest."""
        if version == self.version:
            return self.packed_for(site)
        model, memory = self.load(version), self._load_memory(version)
        return pack_arrays(self._strategy.inputs(model, memory, site))

    def move(self, updates: Sequence[Update]) -> dict[str, Any]:
        """The next version from single updates; returns what is said of it. Durable once the state names it."""
        return self._next(*self._strategy.aggregate(self._model, updates, self._memory))

    def move_by_mean(self, mean: Arrays) -> dict[str, Any]:
        """The next version from the mean of a masked sum."""
        return self._next(*self._strategy.aggregate_total(self._model, mean, self._memory))

    def forget(self, *, before: int) -> None:
        """The state no longer needs what the strategy remembered before a version."""
        self._run.forget_memory(before=before)

    def _next(self, model: Arrays, memory: Arrays) -> dict[str, Any]:
        check_arrays(model, self._specs)
        check_arrays(memory, self._memory_specs)
        started_from = self.sha256
        self.version += 1
        self._packed = self._run.save_model(model_name(self.version), model)
        self.sha256 = sha256_hex(self._packed)
        self._memory_sha256 = ""
        if memory:
            self._memory_sha256 = sha256_hex(self._run.save_memory(self.version, memory))
        self._model, self._memory = model, memory
        return {
            "version": self.version,
            "from_model_sha256": started_from,
            "model_sha256": self.sha256,
            "strategy_sha256": self._memory_sha256,
        }

    def _load_memory(self, version: int, *, sha256: str = "") -> Arrays:
        if not self._memory_specs:
            return {}
        content = self._run.load_memory(version)
        if sha256 and sha256_hex(content) != sha256:
            raise GemelError(
                "GEM513", f"What the strategy remembered at version {version} is not what it wrote."
            )
        return unpack_arrays(content, self._memory_specs)
