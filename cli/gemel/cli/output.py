"""What the commands say: the result on stdout, as a table or one JSON object; all other talk on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


WIDTH_OF_A_PIPE = 140


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[
    Format,
    typer.Option("--format", help="A table to read, or one JSON object on stdout.", show_default=True),
]


def result_console() -> Console:
    """The console of results: stdout. Rich is imported here, so that `--help` need not wait for it."""
    from rich.console import Console

    # A file or a pipe has no width of its own: wide enough that a table's rows stay whole.
    width = None if sys.stdout.isatty() else WIDTH_OF_A_PIPE
    return Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)


def say(text: str) -> None:
    """Talk to the person at the terminal: progress, confirmations, warnings. Never part of the result."""
    typer.echo(text, err=True)


def emit(result: dict[str, Any], output: Format, *, render: Callable[[Console], None]) -> None:
    """Print one result: as a JSON object, or by `render` on the console of results."""
    if output is Format.JSON:
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False, indent=2))
    else:
        render(result_console())


def table(*headings: str, title: str | None = None) -> Table:
    """An empty table in the house's style; a heading that starts with `>` is aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        made.add_column(heading.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return made


def plain(told: object) -> Text:
    """A cell of what others wrote (a study's title, a task's name): no markup, and nothing that moves a terminal."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "?" for c in str(told)))


def report(error: GemelError, output: Format = Format.TABLE) -> None:
    """Say what failed and what to do next; with JSON output, also as one object on stdout."""
    say(f"{error.code} {error.message}")
    say(f"  {error.hint}")
    if output is Format.JSON:
        typer.echo(json.dumps({"error": error.as_dict(), "exit_code": int(error.exit_code)}, indent=2))


@contextmanager
def failures(output: Format) -> Iterator[None]:
    """Turn an expected failure inside the block into its report and its exit code."""
    try:
        yield
    except GemelError as error:
        report(error, output)
        raise typer.Exit(int(error.exit_code)) from error
