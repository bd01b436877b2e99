"""What the commands of `gemel federation` share: the coordinator's home, opened, and results in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.core.signing import SigningKey
    from gemel.server.federation_config import FederationConfig
    from gemel.server.flower.superlink import SuperLink
    from gemel.server.members import Members

Home = Annotated[Path, typer.Argument(metavar="HOME", help="The coordinator's home.", show_default=False)]
HomeOption = Annotated[Path, typer.Option("--home", help="The coordinator's home.", show_default=False)]


def open_home(home: Path) -> tuple[FederationConfig, Members, SigningKey]:
    """A home's settings, members and key. Raises GEM524, GEM520."""
    from gemel.server import federation_config
    from gemel.server.home import CoordinatorHome
    from gemel.server.members import Members
    from gemel.server.store import open_store, store_url

    config = federation_config.load(home)
    return config, Members(open_store(store_url(home))), CoordinatorHome(home).key


def superlink(home: Path, config: FederationConfig) -> SuperLink:
    """The SuperLink of a home, on loopback."""
    from gemel.server.supervisor import superlink_of

    return superlink_of(home.resolve(), config)


def show_pairs(console: Console, result: dict[str, Any]) -> None:
    """A result as names and values, a line each."""
    made = table("", "")
    for name, value in result.items():
        made.add_row(name.replace("_", " "), _words(value))
    console.print(made)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_words(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "\n".join(_words(inner) for inner in value) or "none"
    return str(value)
