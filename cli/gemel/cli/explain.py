"""`gemel explain`: one error code, at length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gemel.cli.output import Format, FormatOption, emit, failures
from gemel.core.error_catalogue import CATALOGUE, CatalogueEntry
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console


def find(code: str) -> tuple[str, CatalogueEntry]:
    """The catalogue's entry of a code, in any case and with or without its letters. Raises GEM802.

    >>> find("gem301")[0], find("301")[0]
    ('GEM301', 'GEM301')
    """
    wanted = code.strip().upper()
    if wanted.isdigit():
        wanted = f"GEM{wanted}"
    if wanted not in CATALOGUE:
        raise GemelError("GEM802", f"There is no error code {code!r}.")
    return wanted, CATALOGUE[wanted]


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="The code, as GEM301.", show_default=False)],
    *,
    output: FormatOption = Format.TABLE,
) -> None:
    """Explain an error code: what it means, and what to do."""
    with failures(output):
        name, entry = find(code)
        result = {
            "code": name,
            "title": entry.title,
            "meaning": entry.meaning,
            "remedy": entry.remedy,
            "exit_code": int(entry.exit_code),
        }

        def render(console: Console) -> None:
            console.print(
                f"{name}  {entry.title}\n\n{entry.meaning}\n\nWhat to do: {entry.remedy}", markup=False
            )
            console.print(f"Exit code: {int(entry.exit_code)} ({entry.exit_code.name.lower()})", markup=False)

        emit(result, output, render=render)
