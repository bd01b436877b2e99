"""What an audit found: one line for each check, with what was claimed beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from gemel.core.errors import GemelError


@dataclass(frozen=True)
class Check:
    """One attack or measurement, and whether the promise held.

    Attributes:
        attack: The family, as "noise" or "membership".
        promise: What should hold, as a sentence.
        claimed, measured: Both sides, for people; `numbers` are those that a program may want.
        passed: Whether it held.
        control: True where an attack is aimed at something unprotected and has to succeed, to show that it can.
    """

    attack: str
    promise: str
    claimed: str
    measured: str
    passed: bool
    control: bool = False
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditReport:
    """All checks of one audit. A pass is a lower bound on what an attacker can do, never a proof."""

    about: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True when every promise held, and every control showed that its attack works."""
        return all(check.passed for check in self.checks)

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        """The form that `gemel audit --format json` prints."""
        checks = [{**asdict(check), "numbers": dict(check.numbers)} for check in self.checks]
        return {"about": self.about, "passed": self.passed, "checks": checks}

    def require(self) -> None:
        """Raise GEM330, naming what broke, unless everything passed."""
        if not self.passed:
            first = self.broken[0]
            raise GemelError(
                "GEM330",
                f"{len(self.broken)} of {len(self.checks)} checks failed; first: {first.attack}: "
                f"{first.promise} Claimed {first.claimed}, measured {first.measured}.",
            )


Attack = Callable[[], Iterable[Check]]


def carry_out(attack: str, run: Attack) -> Iterator[Check]:
    """The checks of one attack; what it could not finish is a check that failed.

    An audit that stops at the first fault would say nothing of the rest. The text of an error stays out: a model
    may put a patient's value in it.
    """
    try:
        yield from run()
    except GemelError as error:
        yield _unfinished(attack, f"ended with {error.code}")
    except Exception as error:
        yield _unfinished(attack, f"ended with {type(error).__name__}")


def _unfinished(attack: str, measured: str) -> Check:
    return Check(attack, "The attack can be carried out to its end.", "no error", measured, passed=False)
