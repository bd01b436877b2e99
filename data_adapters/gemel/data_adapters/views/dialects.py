"""What each engine calls the named functions of the SQL tree."""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

from gemel.data_adapters.views import sql_tree as sql
from gemel.data_adapters.views.sql_tree import Build, Tree

# The name of a lambda's parameter that occurs in no view's tree; such lambdas are never within each other.
_X, _I = "_x", "_i"


def _without_nulls(items: Tree) -> Tree:
    return sql.keep(items, _X, sql.present(sql.column(_X)))


def _pair(position: Tree) -> Tree:
    return exp.Lambda(
        this=sql.struct({"item": sql.column(_X), "position": position}),
        expressions=[sql.identifier(_X), sql.identifier(_I)],
    )


_DUCKDB: dict[str, Build] = {
    # DuckDB counts from 1, and so does its text of a bracket that sqlglot writes for 0.
    "item": lambda items, at: sql.function("list_extract", items, _next(at)),
    "stored": _without_nulls,
    "flat": lambda lists: exp.Flatten(this=lists),
    "positions": lambda items: exp.Transform(
        this=items, expression=_pair(exp.Sub(this=sql.column(_I), expression=sql.number(1)))
    ),
    "count": lambda items: sql.function("coalesce", sql.function("len", items), sql.number(0)),
    "instant": lambda value: exp.TryCast(this=value, to=exp.DataType.build("TIMESTAMPTZ")),
    "date": lambda value: exp.TryCast(this=value, to=exp.DataType.build("DATE")),
    "fail": lambda message: sql.function("error", message),
    "concat": lambda left, right: sql.function("list_concat", left, right),
}
# For rows whose lists hold no NULL: it is not looked for.
_DUCKDB_CLEAN = _DUCKDB | {"stored": lambda items: items}

_SPARK: dict[str, Build] = {
    "item": lambda items, at: sql.function("get", items, at),
    "stored": _without_nulls,
    "flat": lambda lists: exp.Flatten(this=_without_nulls(lists)),
    "positions": lambda items: exp.Transform(this=items, expression=_pair(sql.column(_I))),
    # The size of NULL is NULL or -1, as Spark is set.
    "count": lambda items: sql.function(
        "greatest", sql.function("coalesce", sql.function("size", items), sql.number(0)), sql.number(0)
    ),
    "instant": lambda value: sql.function("try_to_timestamp", value),
    "date": lambda value: sql.function("try_to_date", value),
    "fail": lambda message: sql.function("raise_error", message),
    "concat": lambda left, right: sql.function("concat", left, right),
}


def _next(at: Tree) -> Tree:
    if isinstance(at, exp.Literal):
        return sql.number(int(str(at.this)) + 1)
    return exp.Add(this=exp.Paren(this=at), expression=sql.number(1))


def duckdb_sql(tree: Tree, *, clean: bool = False) -> str:
    """The tree as DuckDB's SQL; `clean` for rows none of whose lists holds a NULL."""
    return _text(tree, "duckdb", _DUCKDB_CLEAN if clean else _DUCKDB)


def spark_sql(tree: Tree) -> str:
    """The tree as Spark's SQL."""
    return _text(tree, "spark", _SPARK)


def _text(tree: Tree, dialect: str, functions: Mapping[str, Build]) -> str:
    return sql.lower(tree, functions).sql(dialect, comments=False)
