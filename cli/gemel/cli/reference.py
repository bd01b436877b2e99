"""The pages of documentation that are generated: error codes, commands, programmes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from gemel.core.error_catalogue import CATALOGUE

RANGES = {
    "1": "Studies, programmes, signatures",
    "2": "Data",
    "3": "Privacy",
    "4": "Node and gate",
    "5": "Coordinator and rounds",
    "6": "Twins",
    "7": "Virtual cohorts",
    "8": "Command line and demo",
    "9": "The coordinator's service",
}
# Help is wrapped to this width wherever the page is made, so that it can be compared.
WIDTH = 90


def errors_page() -> str:
    """Every error code with its meaning, remedy and exit code, as Markdown."""
    parts = [
        "# Error codes\n",
        "Generated from the catalogue in `core/gemel/core/error_catalogue/` by `make docs`; do not edit. "
        "`gemel explain GEMnnn` shows the same.\n",
        "A code is never reused. What a node reports about a failure is one of these codes and nothing else: "
        "the text of an error stays inside the hospital.\n",
    ]
    for digit, title in RANGES.items():
        parts.append(f"## GEM{digit}xx: {title}\n")
        for code, entry in CATALOGUE.items():
            if code.startswith(f"GEM{digit}"):
                exit_code = f"Exit code {int(entry.exit_code)} ({entry.exit_code.name.lower()})."
                parts.append(f"### {code} {entry.title}\n")
                parts.append(f"{entry.meaning}\n\n**What to do:** {entry.remedy} {exit_code}\n")
    return "\n".join(parts)


def commands(group: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """(full name, help text) of a command and all below it, in the order of the help."""
    context = click.Context(group, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    yield name, group.get_help(context)
    if isinstance(group, click.Group):
        for child in group.list_commands(context):
            command = group.get_command(context, child)
            if command is not None and not command.hidden:
                yield from commands(command, f"{name} {child}")


def commands_page(app: typer.Typer) -> str:
    """Every command with its help text, as Markdown."""
    parts = [
        "# Commands\n",
        "Generated from the help texts by `make docs`; do not edit.\n",
        "Noun, then verb. Results go to stdout, as a table or with `--format json` as one JSON object; all other "
        'talk goes to stderr. A failure is `{"error": {"code", "message", "hint"}, "exit_code"}` in JSON.\n',
        "| exit code | meaning |\n|--:|---|\n| 0 | ok |\n| 1 | failed |\n| 2 | usage: the command or a file named "
        "in it is wrong |\n| 3 | refused by policy or budget, or tampered with |\n| 4 | cannot reach a peer |\n"
        "| 130 | interrupted |\n",
    ]
    for name, text in commands(typer.main.get_command(app), "gemel"):
        parts.append(f"## {name}\n\n```\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def pages(folder: Path) -> dict[str, str]:
    """Every generated page below a folder of documentation, by path: the index links to pages that are there."""
    from gemel.cli.main import app
    from gemel.cli.programme_pages import index_page, reference_page

    return {
        "errors.md": errors_page(),
        "commands.md": commands_page(app),
        "programmes.md": index_page(folder),
        "programmes/reference.md": reference_page(),
    }


def write(folder: Path) -> list[Path]:
    """Write the pages into a folder; returns their paths."""
    (folder / "programmes").mkdir(exist_ok=True)
    made = pages(folder)
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in made]


if __name__ == "__main__":
    for path in write(Path(sys.argv[1])):
        typer.echo(path)
