"""Where a live source is and how to get in: a TOML file, or options of the command line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gemel.core.errors import GemelError

_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A FHIR server, and what to fetch from it.

    Attributes:
        base_url: Of the FHIR endpoint, without a trailing slash.
        way: Bulk Data `$export`, or REST searches.
        level: What is exported: everything, all patients' compartments, or one group's.
        group: Id of the Group, for level "Group".
        types: Resource types; none means all that the server exports (searches need some).
        type_filters: `_typeFilter` queries of the export, e.g. "Observation?category=laboratory".
        searches: Queries of the way "search"; a type alone means all of it.
        since: Only what changed after this instant.
        client_id: At the server's SMART Backend Services; without one no token is asked for.
        key_file: PEM, or JWKS with private keys; the first usable one signs, the next when the server refuses it.
        key_id: `kid` of the key to start with (of a PEM: the one to name).
        scopes: Asked for with the token.
        token_url: When the server publishes no smart-configuration.
        ca_file: Certificate authorities to trust instead of the usual ones.
        allow_http: Plain http also to other machines than this one.
        page_size: `_count` of searches.
        longest_wait_s, total_wait_s: Of one wait that the server asks for, and of one export.
    """

    base_url: str
    way: Literal["bulk", "search"] = "bulk"
    level: Literal["system", "Patient", "Group"] = "system"
    group: str | None = None
    types: tuple[str, ...] = ()
    type_filters: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    since: str | None = None
    client_id: str | None = None
    key_file: str | None = None
    key_id: str | None = None
    scopes: tuple[str, ...] = ("system/*.read",)
    token_url: str | None = None
    ca_file: str | None = None
    allow_http: bool = False
    page_size: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    longest_wait_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    total_wait_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0

    def __post_init__(self) -> None:
        if bool(self.client_id) != bool(self.key_file):
            raise GemelError("GEM228", "client_id and key_file belong together.")
        if (self.level == "Group") != bool(self.group):
            raise GemelError("GEM228", 'The level "Group" and the id of a group belong together.')
        if self.group is not None and not _ID.fullmatch(self.group):
            raise GemelError("GEM228", f"group: {self.group!r} is no FHIR id.")
        for name in self.types:
            if not _TYPE.fullmatch(name):
                raise GemelError("GEM228", f"types: {name!r} is no resource type.")
        for query in self.searches:
            if not _TYPE.fullmatch(query.partition("?")[0]):
                raise GemelError("GEM228", f"searches: {query!r} does not start with a resource type.")
        if self.since is not None and not _INSTANT.fullmatch(self.since):
            raise GemelError(
                "GEM228", f"since: {self.since!r} is no instant such as 2024-01-31T00:00:00Z, with its zone."
            )


def load_source(path: Path) -> SourceSettings:
    """Read settings from TOML; `key_file` and `ca_file` are relative to its folder. Raises GEM228."""
    try:
        fields = tomllib.loads(path.read_text("utf-8"))
        for name in ("key_file", "ca_file"):
            if isinstance(fields.get(name), str):
                fields[name] = str(path.parent / fields[name])
        return msgspec.convert(fields, SourceSettings)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise GemelError("GEM228", f"{path.name}: {error}.") from error
