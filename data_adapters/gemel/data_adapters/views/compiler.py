"""ViewDefinition to DuckDB SQL: a view is a union of chains, one for each way through its `unionAll`s.

A chain is the resource, unnested once for each `forEach` on its way. Expressions: see `expressions`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import PRIMITIVE_TYPES
from gemel.data_adapters.reading.shape import Shape, quote_name, quote_text
from gemel.data_adapters.views.expressions import Context, Expression, Term
from gemel.data_adapters.views.view_definition import Column, Select, ViewDefinition

_MAX_CHAINS = 256


@dataclass(frozen=True)
class _Chain:
    stages: tuple[str, ...] = ()  # "unnest(...) AS e1"
    columns: tuple[str, ...] = ()  # "... AS name"

    def __add__(self, other: _Chain) -> _Chain:
        return _Chain(self.stages + other.stages, self.columns + other.columns)


def compile_view(view: ViewDefinition, shape: Shape) -> str:
    """The SELECT that gives the view's rows, over a table named as the resource type, of one column `r`.

    Args:
        view: The view.
        shape: The root of its resource type; grows by the elements that the view reads. Views may share it.

    Raises:
        GemelError: GEM209 naming the expression that is not supported.
    """
    return _Compiler(view).compile(shape)


class _Compiler:
    def __init__(self, view: ViewDefinition) -> None:
        self._view = view
        self._constants = {constant.name: constant for constant in view.constants}
        self._names = (f"e{i}" for i in itertools.count(1))

    def compile(self, shape: Shape) -> str:
        context = Context(Term("r", self._view.resource, shape=shape))
        conditions = [self._condition(where.path, context) for where in self._view.where]
        source = f"SELECT r FROM {quote_name(self._view.resource)}"
        if conditions:
            source += " WHERE " + " AND ".join(conditions)
        chains = [_Chain()]
        for select in self._view.select:
            chains = self._product(chains, self._chains(select, context))
        return "\nUNION ALL\n".join(_chain_sql(chain, source) for chain in chains)

    def _product(self, left: list[_Chain], right: list[_Chain]) -> list[_Chain]:
        if len(left) * len(right) > _MAX_CHAINS:
            raise GemelError("GEM209", f"The view {self._view.name} multiplies too many unionAll branches.")
        return [a + b for a in left for b in right]

    def _chains(self, select: Select, context: Context) -> list[_Chain]:
        if select.repeat is not None:
            raise GemelError("GEM209", f"Not supported: repeat {list(select.repeat)}.")
        if select.for_each is not None and select.for_each_or_null is not None:
            raise GemelError("GEM209", "A select has forEach or forEachOrNull, not both.")
        stages: tuple[str, ...] = ()
        path = select.for_each if select.for_each is not None else select.for_each_or_null
        if path is not None:
            stage, context = self._stage(path, context, or_null=select.for_each is None)
            stages = (stage,)
        chains = [_Chain(stages, tuple(self._column(column, context) for column in select.column))]
        for nested in select.select:
            chains = self._product(chains, self._chains(nested, context))
        if select.union_all:
            branches = [chain for branch in select.union_all for chain in self._chains(branch, context)]
            chains = self._product(chains, branches)
        return chains

    def _term(self, path: str, context: Context) -> Term:
        return Expression(path, context, self._constants).term()

    def _stage(self, path: str, context: Context, *, or_null: bool) -> tuple[str, Context]:
        term = self._term(path, context)
        if not term.type_name:
            raise GemelError("GEM209", f"forEach over the empty collection: {path!r}.")
        items = term.sql if term.many else f"(CASE WHEN {term.sql} IS NOT NULL THEN [{term.sql}] END)"
        if or_null:
            items = f"(CASE WHEN coalesce(len({items}), 0) = 0 THEN [NULL] ELSE {items} END)"
        name = next(self._names)
        # Position and item travel together: a plain unnest would lose the position.
        pairs = f"list_transform({items}, lambda x, i: {{'item': x, 'position': i - 1}})"
        focus = replace(term, sql=f"{name}.item", many=False)
        return f"unnest({pairs}) AS {name}", Context(focus, f"{name}.position")

    def _column(self, column: Column, context: Context) -> str:
        term = self._term(column.path, context)
        if term.type_name and term.type_name not in PRIMITIVE_TYPES:
            raise GemelError("GEM209", f"Column {column.name} ({column.path}) is a {term.type_name}.")
        if column.type and term.type_name and not _declared(column.type, term):
            raise GemelError(
                "GEM209",
                f"Column {column.name} is declared {column.type}; {column.path} is {term.type_name}.",
            )
        if column.collection:
            items = term.sql if term.many else f"CASE WHEN {term.sql} IS NOT NULL THEN [{term.sql}] END"
            sql = f"coalesce({items}, [])"
        else:
            sql = self._single(term, column.path)
        return f"{sql} AS {quote_name(column.name)}"

    def _single(self, term: Term, path: str) -> str:
        """The one value of a term; more than one is an error while the query runs."""
        if not term.many:
            return term.sql
        message = quote_text(f"{path} of view {self._view.name} gives more than one value")
        return f"CASE WHEN len({term.sql}) > 1 THEN error({message}) ELSE ({term.sql})[1] END"

    def _condition(self, path: str, context: Context) -> str:
        term = self._term(path, context)
        if term.category != "boolean":
            raise GemelError("GEM209", f"where must be boolean: {path!r} is {term.type_name or 'empty'}.")
        return f"coalesce({self._single(term, path)}, FALSE)"


def _declared(type_name: str, term: Term) -> bool:
    """True when a column of that declared type may hold the term: the same family, or text for a date."""
    family = Term("", type_name).category
    return family == term.category or (family == "string" and term.category in ("temporal", "time"))


def _chain_sql(chain: _Chain, source: str) -> str:
    for stage in chain.stages:
        source = f"SELECT *, {stage} FROM ({source})"
    return f"SELECT {', '.join(chain.columns)} FROM ({source})"
