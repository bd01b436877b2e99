"""ViewDefinition to the SQL tree: a view is a union of chains, one for each way through its `unionAll`s.

A chain is the resource, unnested once for each `forEach` on its way. Expressions: see `expressions`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import pyarrow as pa
from sqlglot import exp

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import NUMBER_TYPES, PRIMITIVE_TYPES
from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.views import sql_tree as sql
from gemel.data_adapters.views.expressions import Context, Expression, RowIndex, Term
from gemel.data_adapters.views.recursion import Repeat
from gemel.data_adapters.views.sql_tree import Tree
from gemel.data_adapters.views.view_definition import (
    Column,
    Select,
    ViewConstant,
    ViewDefinition,
    columns_of,
)

_MAX_CHAINS = 256
FIRST_DEPTH = 4
MAX_DEPTH = (
    13  # Binding lambdas within lambdas takes DuckDB a second at 13 levels, and twice that for each more.
)

# What a stage makes of the rows before it.
_Stage = Callable[[exp.Query], exp.Query]


@dataclass(frozen=True)
class CompiledView:
    """A view as a query over a table named as its resource type.

    Attributes:
        view: The view.
        tree: The query. The table has the column `_line` and the resource's elements; the rows have `_line` first.
        repeats: True when the query follows a `repeat` to the depth that it was compiled for.
    """

    view: ViewDefinition
    tree: exp.Query
    repeats: bool


def compile_views(
    views: Sequence[ViewDefinition], *, depth: int = FIRST_DEPTH
) -> tuple[tuple[CompiledView, ...], dict[str, Shape]]:
    """Compile views, and give what they read of each resource type.

    Args:
        views: The views; their names differ.
        depth: To how many levels a `repeat` is followed; a resource that goes deeper is an error of the query.

    Raises:
        GemelError: GEM209 naming the expression that is not supported.
    """
    if len({view.name for view in views}) != len(views):
        raise GemelError("GEM209", "Two of the views have the same name.")
    shapes = {view.resource: Shape.of_resource(view.resource) for view in views}
    exact = 0
    while True:
        compiled = tuple(_Compiler(view, depth).compile(shapes[view.resource]) for view in views)
        # Once more when an expression has asked for the text of a decimal that others read as a number.
        if exact == (exact := sum(_exact_elements(shape) for shape in shapes.values())):
            return compiled, shapes


def rows_schema(shape: Shape) -> pa.Schema:
    """A resource type's table as the views see it: the elements as columns, so that only those used are read."""
    fields = [pa.field(name, child.arrow_type()) for name, child in sorted(shape.children.items())]
    return pa.schema([pa.field("_line", pa.int64()), *fields])


def _exact_elements(shape: Shape) -> int:
    return shape.exact + sum(_exact_elements(child) for child in shape.children.values())


@dataclass(frozen=True)
class _Chain:
    stages: tuple[_Stage, ...] = ()
    columns: tuple[exp.Expr, ...] = ()

    def __add__(self, other: _Chain) -> _Chain:
        return _Chain(self.stages + other.stages, self.columns + other.columns)


class _Compiler:
    def __init__(self, view: ViewDefinition, depth: int) -> None:
        self._view = view
        self._depth = depth
        self._repeats = False
        self._constants: Mapping[str, ViewConstant] = {constant.name: constant for constant in view.constants}
        self._rows = (f"e{i}" for i in itertools.count(1))
        self._names = (f"x{i}" for i in itertools.count(1))

    def compile(self, shape: Shape) -> CompiledView:
        context = Context(Term(None, self._view.resource, shape=shape))
        conditions = [self._condition(where.path, context) for where in self._view.where]
        chains = [_Chain()]
        for select in self._view.select:
            chains = self._product(chains, self._chains(select, context))
        queries = [self._query(chain, conditions) for chain in chains]
        tree: exp.Query = reduce(
            lambda left, right: exp.Union(this=left, expression=right, distinct=False), queries
        )
        return CompiledView(self._view, tree, self._repeats)

    def _query(self, chain: _Chain, conditions: Sequence[Tree]) -> exp.Query:
        table = exp.Table(
            this=sql.identifier(self._view.resource), alias=exp.TableAlias(this=sql.identifier("_t"))
        )
        query: exp.Query = exp.Select(expressions=[exp.Star()], from_=exp.From(this=table))
        if conditions:
            query = _filter(sql.both(conditions))(query)
        for stage in chain.stages:
            query = stage(query)
        return _select([sql.column("_line"), *chain.columns], query)

    def _product(self, left: list[_Chain], right: list[_Chain]) -> list[_Chain]:
        if len(left) * len(right) > _MAX_CHAINS:
            raise GemelError("GEM209", f"The view {self._view.name} multiplies too many unionAll branches.")
        return [a + b for a in left for b in right]

    def _chains(self, select: Select, context: Context) -> list[_Chain]:
        ways = [way for way in (select.for_each, select.for_each_or_null, select.repeat) if way is not None]
        if len(ways) > 1:
            raise GemelError("GEM209", "A select has forEach or forEachOrNull or repeat, not two of them.")
        if select.repeat is not None:
            return self._repeated(select, select.repeat, context)
        path = select.for_each if select.for_each is not None else select.for_each_or_null
        if path is None:
            return self._inner(select, context)
        return self._for_each(select, path, context, or_null=select.for_each is None)

    def _inner(self, select: Select, context: Context) -> list[_Chain]:
        chains = [_Chain((), tuple(self._column(column, context) for column in select.column))]
        for nested in select.select:
            chains = self._product(chains, self._chains(nested, context))
        if select.union_all:
            branches = [chain for branch in select.union_all for chain in self._chains(branch, context)]
            chains = self._product(chains, branches)
        return chains

    def _for_each(self, select: Select, path: str, context: Context, *, or_null: bool) -> list[_Chain]:
        term = self._term(path, context)
        if not term.type_name:
            raise GemelError("GEM209", f"forEach over the empty collection: {path!r}.")
        if term.many:
            return self._unnested(select, term.raw, term, or_null=or_null)
        # One item at most: the row stays, or goes.
        if or_null:
            return self._inner(select, Context(term))
        if not term.is_resource:
            there = sql.present(term.raw)
        elif term.guard is not None:
            there, term = sql.or_false(term.guard), replace(term, guard=None)
        else:
            return self._inner(select, Context(term))
        return [_Chain((_filter(there),)) + chain for chain in self._inner(select, Context(term))]

    def _unnested(self, select: Select, items: Tree, term: Term, *, or_null: bool = False) -> list[_Chain]:
        """The chains of a select whose focus is each of the items, which are of the term's type and shape."""
        name = next(self._rows)
        focus = replace(term, tree=sql.column(name), many=False)
        index = RowIndex(sql.column(f"{name}_index"))
        chains = self._inner(select, Context(focus, index))
        if or_null:
            nothing = exp.EQ(this=sql.count(items), expression=sql.number(0))
            items = sql.when((nothing, sql.list_of(exp.Null())), otherwise=items)
        stage = _unnest(items, name, with_index=index.used)
        return [_Chain((stage,)) + chain for chain in chains]

    def _repeated(self, select: Select, paths: Sequence[str], context: Context) -> list[_Chain]:
        self._repeats = True
        repeat = Repeat(paths, lambda path, focus: self._term(path, Context(focus)), self._names)
        term = repeat.item_term(context.focus)
        if term is None or term.shape is None:  # No such element here: no rows.
            empty = [sql.null(_sql_type(column)) for column in columns_of((select,))]
            names = [column.name for column in columns_of((select,))]
            columns = tuple(exp.alias_(*pair, quoted=True) for pair in zip(empty, names, strict=True))
            return [_Chain((_filter(exp.false()),), columns)]
        name = next(self._rows)
        index = RowIndex(sql.column(f"{name}_index"))
        chains = self._inner(select, Context(replace(term, tree=sql.column(name), many=False), index))
        # Only now is it known what the columns read of an item.
        fail = sql.call("fail", sql.text(f"{DEEPER} {self._depth} levels of repeat"))
        items = repeat.items(context.focus, term.shape, self._depth, fail)
        stage = _unnest(items, name, with_index=index.used)
        return [_Chain((stage,)) + chain for chain in chains]

    def _term(self, path: str, context: Context) -> Term:
        return Expression(path, context, self._constants, self._names).term()

    def _column(self, column: Column, context: Context) -> exp.Expr:
        term = self._term(column.path, context)
        if term.type_name and term.type_name not in PRIMITIVE_TYPES:
            raise GemelError("GEM209", f"Column {column.name} ({column.path}) is a {term.type_name}.")
        if column.type and term.type_name and not _declared(column.type, term):
            raise GemelError(
                "GEM209",
                f"Column {column.name} is declared {column.type}; {column.path} is {term.type_name}.",
            )
        if not term.type_name:
            term = replace(term, tree=sql.null(_sql_type(column)), many=False)
        if column.collection:
            items = term.sql if term.many else sql.when((sql.present(term.sql), sql.list_of(term.sql)))
            tree: Tree = exp.Coalesce(this=items, expressions=[sql.list_of()])
        else:
            tree = self._single(term, column.path)
        return exp.alias_(tree, column.name, quoted=True)

    def _single(self, term: Term, path: str) -> Tree:
        """The one value of a term; more than one is an error while the query runs."""
        if not term.many:
            return term.sql
        message = sql.text(f"{path} of view {self._view.name} gives more than one value")
        too_many = sql.binary(exp.GT, sql.count(term.sql), sql.number(1))
        return sql.when(
            (too_many, sql.call("fail", message)), otherwise=sql.call("item", term.sql, sql.number(0))
        )

    def _condition(self, path: str, context: Context) -> Tree:
        term = self._term(path, context)
        if term.category != "boolean":
            raise GemelError("GEM209", f"where must be boolean: {path!r} is {term.type_name or 'empty'}.")
        return sql.or_false(self._single(term, path))


# How the message of a query starts that met a resource deeper than it was compiled for.
DEEPER = "deeper than"


def _declared(type_name: str, term: Term) -> bool:
    """True when a column of that declared type may hold the term: the same family, or text for a date."""
    family = Term(None, type_name).category
    return family == term.category or (family == "string" and term.category in ("temporal", "time"))


def _sql_type(column: Column) -> str:
    """The SQL type of a column without values."""
    if column.type in NUMBER_TYPES:
        return "DOUBLE" if column.type == "decimal" else "BIGINT"
    return "BOOLEAN" if column.type == "boolean" else "VARCHAR"


def _select(columns: Sequence[exp.Expr], source: exp.Query) -> exp.Select:
    return exp.Select(expressions=list(columns), from_=exp.From(this=exp.Subquery(this=source)))


def _filter(condition: Tree) -> _Stage:
    def stage(source: exp.Query) -> exp.Query:
        query = _select([exp.Star()], source)
        query.set("where", exp.Where(this=condition))
        return query

    return stage


def _unnest(items: Tree, name: str, *, with_index: bool) -> _Stage:
    def stage(source: exp.Query) -> exp.Query:
        if not with_index:
            return _select([exp.Star(), exp.alias_(exp.Explode(this=items), name, quoted=True)], source)
        # Position and item travel together: a plain unnest would lose the position.
        pairs = exp.Explode(this=sql.call("positions", items))
        pair = sql.column(f"{name}_pair")
        inner = _select([exp.Star(), exp.alias_(pairs, f"{name}_pair", quoted=True)], source)
        item = exp.alias_(sql.field(pair, "item"), name, quoted=True)
        index = exp.alias_(sql.field(pair, "position"), f"{name}_index", quoted=True)
        return _select([exp.Star(), item, index], inner)

    return stage
