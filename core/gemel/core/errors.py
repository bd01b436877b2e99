"""One exception type; each error carries a stable code from the closed list in `error_catalogue`."""

from __future__ import annotations

from gemel.core.error_catalogue import CATALOGUE, ExitCode


class GemelError(Exception):
    """An expected failure: what, where, got/expected, and the next step.

    Args:
        code: A key of `CATALOGUE`; an unknown one is a programming error (KeyError).
        message: What happened, where, and got/expected. May hold local detail; never leaves a node.
        hint: The next step for the person who reads it. Defaults to the catalogue's remedy.
    """

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        entry = CATALOGUE[code]
        self.code = code
        self.message = message
        self.hint = hint if hint is not None else entry.remedy
        super().__init__(f"{code} {message} {self.hint}")

    @property
    def exit_code(self) -> ExitCode:
        """The process exit status that this error maps to."""
        return CATALOGUE[self.code].exit_code

    def as_dict(self) -> dict[str, str]:
        """The form that `--format json` prints."""
        return {"code": self.code, "message": self.message, "hint": self.hint}
