"""`repeat`: the items that paths lead to, and those that the same paths lead to from there, to a known depth.

An element that contains its own kind (`QuestionnaireResponse.item`) has no end as a type, so the query is written to
a depth, and fails on a resource that goes deeper; it is then compiled again for more. Nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import find_element, is_element_name
from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.views import fhirpath
from gemel.data_adapters.views import sql_tree as sql
from gemel.data_adapters.views.expressions import Term
from gemel.data_adapters.views.sql_tree import Tree

# Structs that the query may spell out: with one path its depth, with two 2 ** depth.
_MAX_STRUCTS = 1024


@dataclass(frozen=True)
class Repeat:
    """One `repeat` of a view.

    Attributes:
        paths: The paths to follow; an item's own items come right behind it, in the order of the paths.
        compile: Compiles a path at a focus.
        names: Names for lambda parameters.
    """

    paths: Sequence[str]
    compile: Callable[[str, Term], Term]
    names: Iterator[str]

    def item_term(self, focus: Term) -> Term | None:
        """The items, with a shape of its own for what is read of each; None when the focus can have none."""
        terms = self._terms(focus)
        if not terms:
            return None
        shape = Shape(terms[0].type_name)
        shape.child("id", "string")  # A struct needs a field.
        return replace(terms[0], shape=shape)

    def items(self, focus: Term, shape: Shape, depth: int, fail: Tree) -> Tree:
        """The list of all items, each reduced to what the shape holds.

        Args:
            focus: Where the paths start.
            shape: What is read of an item.
            depth: How many levels are followed.
            fail: Evaluated when there are more.

        Raises:
            GemelError: GEM232 when the paths branch too often for the depth.
        """
        if len(self.paths) ** depth > _MAX_STRUCTS:
            raise GemelError(
                "GEM232", f"A resource has more than {depth - 1} levels of repeat {list(self.paths)}."
            )
        return self._below(self._terms(focus), shape, depth, fail)

    def _below(self, terms: Sequence[Term], shape: Shape, depth: int, fail: Tree) -> Tree:
        lists = [self._subtrees(term, shape, depth, fail) for term in terms]
        joined = lists[0]
        for items in lists[1:]:
            joined = sql.call("concat", _or_empty(joined), _or_empty(items))
        return joined

    def _subtrees(self, term: Term, shape: Shape, depth: int, fail: Tree) -> Tree:
        """Each item of the term, and what is below it."""
        if term.shape is not None:
            _merge(term.shape, shape)
        x = next(self.names)
        item = replace(term, tree=sql.column(x), many=False)
        reduced = _reduced(item.raw, shape, self.names)
        deeper = self._terms(item)
        if depth > 1 and deeper:
            rest = self._below(deeper, shape, depth - 1, fail)
            one = sql.call("concat", sql.list_of(reduced), _or_empty(rest))
        elif deeper:
            tests = [sql.binary(exp.GT, sql.count(_listed(more)), sql.number(0)) for more in deeper]
            one = sql.list_of(sql.when(*((test, fail) for test in tests), otherwise=reduced))
        else:
            one = sql.list_of(reduced)
        return sql.call("flat", sql.each(_listed(term), x, one))

    def _terms(self, focus: Term) -> list[Term]:
        """The terms of the paths whose elements the focus can have, all of one complex type."""
        terms = [self.compile(path, focus) for path in self.paths if self._may_start(path, focus)]
        types = {term.type_name for term in terms}
        if len(types) > 1 or any(term.shape is None for term in terms):
            raise GemelError(
                "GEM209", f"repeat {list(self.paths)} leads to {sorted(types)}; one type is supported."
            )
        return terms

    def _may_start(self, path: str, focus: Term) -> bool:
        """False for a path that starts with an element of other FHIR types only: it is empty here, but no slip."""
        node = fhirpath.parse(path)
        while isinstance(node, fhirpath.Member | fhirpath.Call | fhirpath.Index) and node.target is not None:
            node = node.target
        if not isinstance(node, fhirpath.Member) or not is_element_name(node.name):
            return True
        return find_element(focus.type_name, node.name) is not None


def _merge(shape: Shape, other: Shape) -> None:
    """Let a shape hold what another holds."""
    shape.exact |= other.exact
    for name, child in other.children.items():
        _merge(shape.child(name, child.type_name, repeats=child.repeats), child)


def _listed(term: Term) -> Tree:
    """The items of a term as a list."""
    return term.raw if term.many else sql.when((sql.present(term.raw), sql.list_of(term.raw)))


def _or_empty(items: Tree) -> Tree:
    return exp.Coalesce(this=items, expressions=[sql.list_of()])


def _reduced(value: Tree, shape: Shape, names: Iterator[str]) -> Tree:
    """A struct with the shape's fields only, so that items of every level are of one type."""
    fields = {}
    for name, child in sorted(shape.children.items()):
        inner = sql.field(value, name)
        if child.repeats and (child.children or child.is_opaque):
            x = next(names)
            inner = sql.each(inner, x, _reduced_item(sql.column(x), child, names))
        elif child.children or child.is_opaque:
            inner = _reduced_item(inner, child, names)
        fields[name] = inner
    return sql.struct(fields)


def _reduced_item(value: Tree, shape: Shape, names: Iterator[str]) -> Tree:
    # Of an element of which no child is read it only matters whether it is there.
    there = sql.text("") if shape.is_opaque else _reduced(value, shape, names)
    return sql.when((sql.present(value), there))
