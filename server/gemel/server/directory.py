"""Where a site of a study is reached, and whether the federation still believes its key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from gemel.server.members import Members


@dataclass(frozen=True)
class Listing:
    """What is on record of a node's key: the transport's name for the node, and why it may not be asked, or ""."""

    node: int | None
    code: str = ""


class Directory(ABC):
    """Looked up anew before each request and each reply: a key may be revoked while a run goes on."""

    @abstractmethod
    def find(self, public_key: str) -> Listing:
        """The node that holds a signing key. An unknown one is GEM521."""

    def keys(self, public_key: str) -> frozenset[str]:
        """The keys under which the ledger of that node went on: this one, and its hospital's earlier ones."""
        return frozenset({public_key})


@dataclass(frozen=True)
class MemberDirectory(Directory):
    """The members that the federation admitted, from the coordinator's store."""

    members: Members

    def find(self, public_key: str) -> Listing:
        """The node by the store; GEM521 not admitted, GEM522 revoked or replaced, GEM523 expired."""
        code = self.members.refusal(public_key)
        member = None if code else self.members.of(public_key)
        return Listing(None if member is None else member.flower_node, code)

    def keys(self, public_key: str) -> frozenset[str]:
        """Every key that the hospital of this key was admitted with."""
        member = self.members.of(public_key)
        earlier = () if member is None else self.members.of_site(member.site)
        return frozenset({public_key, *(m.public_key for m in earlier)})


@dataclass
class FixedDirectory(Directory):
    """Nodes that are given, for simulations and tests: key -> the transport's name; `refused`: key -> code."""

    nodes: Mapping[str, int]
    refused: dict[str, str] = field(default_factory=dict)

    def find(self, public_key: str) -> Listing:
        """The node as given."""
        if public_key not in self.nodes:
            return Listing(None, "GEM521")
        return Listing(self.nodes[public_key], self.refused.get(public_key, ""))
