"""Pieces of the one SQL tree (sqlglot) that every engine's text is generated from.

What the engines write differently, and sqlglot does not know, stands in the tree as a named call; `lower` puts an
engine's own form in its place (`dialects`). The names:

- item(list, i): the i-th from 0, NULL when there is none; count(list): 0 for NULL; concat(list, list).
- stored(list): a list as it was read, without its NULLs; flat(lists): their items, NULL lists passed over.
- positions(list): structs of `item` and `position` from 0.
- instant(text), date(text): a point in time, a day; NULL when the text is none.
- fail(message): an error while the query runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from sqlglot import exp

Tree = exp.Expr
Build = Callable[..., Tree]

_PREFIX = "gemel_"


def call(name: str, *arguments: Tree) -> Tree:
    """A call of a named function that every engine defines."""
    return exp.Anonymous(this=_PREFIX + name, expressions=list(arguments))


def function(name: str, *arguments: Tree) -> Tree:
    """A call of a function that the engines have under the same name and with the same meaning."""
    return exp.Anonymous(this=name, expressions=list(arguments))


def lower(tree: Tree, functions: Mapping[str, Build]) -> Tree:
    """A copy of the tree in which the named functions are those of one engine."""
    tree = tree.copy()
    # From the leaves up, so that a function is given arguments which are lowered already.
    for node in reversed(list(tree.walk())):
        if isinstance(node, exp.Anonymous) and str(node.this).startswith(_PREFIX):
            lowered = functions[str(node.this).removeprefix(_PREFIX)](*node.expressions)
            tree = lowered if node is tree else tree
            node.replace(lowered)
    return tree


def identifier(name: str) -> exp.Identifier:
    """A quoted identifier."""
    return exp.to_identifier(name, quoted=True)


def column(name: str) -> Tree:
    """A column, or a lambda's parameter."""
    return exp.Column(this=identifier(name))


def field(target: Tree, name: str) -> Tree:
    """A field of a struct."""
    return exp.Dot(this=_operand(target), expression=identifier(name))


def _operand(tree: Tree) -> Tree:
    return tree if isinstance(tree, exp.Column | exp.Dot) else exp.Paren(this=tree)


def text(value: str) -> Tree:
    """A string literal."""
    return exp.Literal.string(value)


def number(value: object) -> Tree:
    """A number literal."""
    return exp.Literal.number(str(value))


def joined(*parts: Tree) -> Tree:
    """Texts put together; NULL when one of them is."""
    return exp.Paren(this=reduce(lambda left, right: exp.DPipe(this=left, expression=right), parts))


def null(type_name: str = "VARCHAR") -> Tree:
    """NULL of a type."""
    return exp.cast(exp.Null(), type_name)


def present(tree: Tree) -> Tree:
    """Whether a value is there."""
    return exp.Not(this=exp.Is(this=_operand(tree), expression=exp.Null()))


def count(items: Tree) -> Tree:
    """The number of items; 0 for NULL."""
    return call("count", items)


def each(items: Tree, parameter: str, body: Tree) -> Tree:
    """The list of what `body` makes of each item."""
    return exp.Transform(this=items, expression=_lambda(parameter, body))


def keep(items: Tree, parameter: str, condition: Tree) -> Tree:
    """The items for which the condition holds."""
    return exp.ArrayFilter(this=items, expression=_lambda(parameter, condition))


def _lambda(parameter: str, body: Tree) -> Tree:
    return exp.Lambda(this=body, expressions=[identifier(parameter)])


def struct(fields: Mapping[str, Tree]) -> Tree:
    """A struct of named fields."""
    return exp.Struct(
        expressions=[exp.PropertyEQ(this=identifier(name), expression=tree) for name, tree in fields.items()]
    )


def list_of(*items: Tree) -> Tree:
    """A list."""
    return exp.Array(expressions=list(items))


def when(*branches: tuple[Tree, Tree], otherwise: Tree | None = None) -> Tree:
    """CASE WHEN ... THEN ... ELSE ... END."""
    return exp.Paren(
        this=exp.Case(ifs=[exp.If(this=test, true=value) for test, value in branches], default=otherwise)
    )


def binary(kind: type[exp.Binary], left: Tree, right: Tree) -> Tree:
    """An operator between two operands, in parentheses."""
    return exp.Paren(this=kind(this=exp.Paren(this=left), expression=exp.Paren(this=right)))


def negate(tree: Tree) -> Tree:
    """NOT."""
    return exp.Paren(this=exp.Not(this=exp.Paren(this=tree)))


def both(conditions: Sequence[Tree]) -> Tree:
    """All of the conditions."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = binary(exp.And, result, condition)
    return result


def or_false(condition: Tree) -> Tree:
    """The condition; FALSE when it is empty."""
    return exp.Coalesce(this=condition, expressions=[exp.false()])
