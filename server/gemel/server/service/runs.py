"""How the service begins a run and asks whether it goes on: Flower's Control API, on loopback."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum

from gemel.core.errors import GemelError
from gemel.server.flower.superlink import SuperLink


class RunState(StrEnum):
    """What the engine says of a run; whether the study is done only its certificate says."""

    GOING = "going"
    ENDED = "ended"  # or never heard of


class Runs(ABC):
    """The engine that runs studies which are on record in the coordinator's home."""

    @abstractmethod
    def start(self, study_sha256: str, *, approval_timeout_s: float) -> str:
        """Begin a run and return its name. Raises GEM505 when the engine cannot be reached."""

    @abstractmethod
    def state(self, run: str) -> RunState:
        """Whether it goes on. Raises GEM505 when the engine cannot be reached."""


class FlowerRuns(Runs):
    """Runs over a SuperLink."""

    def __init__(self, superlink: SuperLink) -> None:
        self._superlink = superlink

    def start(self, study_sha256: str, *, approval_timeout_s: float) -> str:
        """See `Runs`."""
        try:
            return str(self._superlink.start_run(study_sha256, approval_timeout_s=approval_timeout_s))
        except Exception as error:  # of whatever kind Flower's client has
            raise GemelError("GEM505", f"The SuperLink began no run: {type(error).__name__}.") from error

    def state(self, run: str) -> RunState:
        """See `Runs`. A run that the SuperLink does not know (its database is another) has ended."""
        try:
            status, _ = self._superlink.run_status(int(run))
        except KeyError:
            return RunState.ENDED
        except Exception as error:
            raise GemelError("GEM505", f"The SuperLink does not answer: {type(error).__name__}.") from error
        return RunState.ENDED if status == "finished" else RunState.GOING
