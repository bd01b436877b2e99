"""FHIRPath to the SQL tree, typed by FHIR's own element table. What is not supported is refused (GEM209).

Every expression becomes a `Term`: a tree that gives one value, or a list when the path may repeat. Empty is NULL, or
the empty list. The functions of FHIRPath are in `functions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from sqlglot import exp

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import (
    NUMBER_TYPES,
    PRIMITIVE_TYPES,
    STRING_TYPES,
    TEMPORAL_TYPES,
    find_element,
)
from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.views import fhirpath
from gemel.data_adapters.views import sql_tree as sql
from gemel.data_adapters.views.sql_tree import Tree
from gemel.data_adapters.views.view_definition import ViewConstant

_COMPARISONS: Mapping[str, type[exp.Binary]] = {"<": exp.LT, "<=": exp.LTE, ">": exp.GT, ">=": exp.GTE}
_ARITHMETIC: Mapping[str, type[exp.Binary]] = {"+": exp.Add, "-": exp.Sub, "*": exp.Mul, "/": exp.Div}


@dataclass(frozen=True)
class Term:
    """A compiled expression: its tree, FHIR type, and whether it is a list.

    `shape` is set for elements (what lies below is recorded there); `choice` for `value[x]` before `ofType`,
    where `tree` and `shape` are still those of the parent. An empty `type_name` is the empty collection. The
    resource itself has no tree: its elements are columns, NULL where its `guard` does not hold. A decimal whose
    precision matters is `written`: its tree gives the text.
    """

    tree: Tree | None
    type_name: str
    many: bool = False
    shape: Shape | None = None
    choice: str | None = None
    guard: Tree | None = None
    written: bool = False

    @property
    def raw(self) -> Tree:
        """The tree as it was read: a decimal may be its text."""
        if self.tree is None:
            raise GemelError("GEM209", f"Not supported: the {self.type_name} itself as a value.")
        return self.tree

    @property
    def sql(self) -> Tree:
        """The tree of a value to compute with, or to give."""
        if not self.written:
            return self.raw
        if not self.many:
            return exp.cast(self.raw, "DOUBLE")
        return sql.each(self.raw, "_w", exp.cast(sql.column("_w"), "DOUBLE"))

    @property
    def is_resource(self) -> bool:
        """True for the resource that the view is over."""
        return self.tree is None

    @property
    def category(self) -> str:
        """The family within which values compare: string, number, boolean, temporal, time; else the type."""
        for name, types in (("string", STRING_TYPES), ("number", NUMBER_TYPES), ("temporal", TEMPORAL_TYPES)):
            if self.type_name in types:
                return name
        return self.type_name


@dataclass
class RowIndex:
    """The position of a row in its `forEach`; `used` when an expression asks for it."""

    tree: Tree
    used: bool = False


@dataclass(frozen=True)
class Context:
    """Where an expression is evaluated: the focus, and the row's position in its `forEach`."""

    focus: Term
    row_index: RowIndex = field(default_factory=lambda: RowIndex(sql.number(0)))


class Expression:
    """One FHIRPath expression in one context; `term()` compiles it."""

    def __init__(
        self, path: str, context: Context, constants: Mapping[str, ViewConstant], names: Iterator[str]
    ) -> None:
        self.path = path
        self._context = context
        self._constants = constants
        self._names = names

    def unsupported(self, what: str) -> GemelError:
        """The refusal that names the expression."""
        return GemelError("GEM209", f"Not supported in {self.path!r}: {what}.")

    def term(self) -> Term:
        """Compile the whole expression."""
        return self.complete(self._compile(fhirpath.parse(self.path), self._context.focus))

    def complete(self, term: Term) -> Term:
        """Refuse a choice element whose type was not chosen."""
        if term.choice is not None:
            raise self.unsupported(f"{term.choice}[x] needs ofType(...)")
        return term

    def _compile(self, node: fhirpath.Node, focus: Term) -> Term:
        match node:
            case fhirpath.Literal(value):
                return self._literal(value)
            case fhirpath.Temporal(text):
                if text.startswith("T"):
                    return Term(sql.text(text[1:]), "time")
                return Term(sql.text(text.removesuffix("T")), "dateTime" if "T" in text else "date")
            case fhirpath.Constant(name):
                return self._constant(name)
            case fhirpath.This("this"):
                return focus
            case fhirpath.Member(target, name):
                return self.step(self._target(target, focus), name)
            case fhirpath.Call(target, name, arguments):
                from gemel.data_adapters.views.functions import FUNCTIONS

                function = FUNCTIONS.get(name)
                if function is None:
                    raise self.unsupported(f"function {name}()")
                return function(self, self._target(target, focus), arguments)
            case fhirpath.Index(target, position):
                return self._index(self.complete(self._target(target, focus)), position)
            case fhirpath.Unary("-", fhirpath.Literal(value)) if isinstance(value, int | Decimal):
                return self._literal(-value)
            case fhirpath.Binary(operator, left, right):
                return self._binary(operator, self.inside(left, focus), self.inside(right, focus))
        raise self.unsupported(f"{node}")

    def inside(self, node: fhirpath.Node, focus: Term) -> Term:
        """Compile an argument or operand with another focus."""
        return self.complete(self._compile(node, focus))

    def _target(self, node: fhirpath.Node | None, focus: Term) -> Term:
        return focus if node is None else self._compile(node, focus)

    def _literal(self, value: str | Decimal | int | bool | None) -> Term:
        match value:
            case None:
                return Term(exp.Null(), "")
            case bool():
                return Term(exp.Boolean(this=value), "boolean")
            case int():
                return Term(_signed(value), "integer")
            case Decimal():
                return Term(exp.cast(_signed(value), "DOUBLE"), "decimal")
        return Term(sql.text(value), "string")

    def _constant(self, name: str) -> Term:
        if name == "rowIndex":
            self._context.row_index.used = True
            return Term(self._context.row_index.tree, "integer")
        constant = self._constants.get(name)
        if constant is None:
            raise self.unsupported(f"constant %{name} is not defined")
        if constant.type not in PRIMITIVE_TYPES:
            raise self.unsupported(f"constant %{name} of type {constant.type}")
        term = replace(self._literal(_exact(constant.value)), type_name=constant.type)
        natural = {"boolean": bool, "number": int | float}.get(term.category, str)
        if not isinstance(constant.value, natural) or (
            natural is not bool and isinstance(constant.value, bool)
        ):
            raise self.unsupported(f"constant %{name} is no {constant.type}")
        return term

    def step(self, target: Term, name: str) -> Term:
        """`target.name`. A name that is the type's own (`Patient.name`) stays where it is."""
        self.complete(target)
        if target.type_name == name and target.shape is not None and name[:1].isupper():
            return target
        element = find_element(target.type_name, name)
        if element is None or target.shape is None:
            raise self.unsupported(f"{target.type_name or 'empty'} has no element {name}")
        if element.choice:
            return replace(target, choice=name)
        return self.child(target, name, element.types[0], repeats=element.repeats)

    def child(self, target: Term, name: str, type_name: str, *, repeats: bool) -> Term:
        """The JSON child `name` of every item of the target."""
        if target.shape is None:
            raise self.unsupported(f"{name} of a computed {target.type_name}")
        shape = target.shape.child(name, type_name, repeats=repeats)
        if not target.many:
            tree = sql.column(name) if target.is_resource else sql.field(target.raw, name)
            if repeats:
                tree = sql.call("stored", tree)
            if target.guard is not None:
                tree = sql.when((target.guard, tree))
            return Term(tree, type_name, repeats, shape, written=shape.exact)
        x = self.name()
        item = sql.field(sql.column(x), name)
        if repeats:
            items = sql.call("flat", sql.each(target.raw, x, sql.call("stored", item)))
        else:
            items = self.present(sql.each(target.raw, x, item))
        return Term(items, type_name, True, shape, written=shape.exact)

    def name(self) -> str:
        """A fresh name for a lambda's parameter."""
        return next(self._names)

    def present(self, items: Tree) -> Tree:
        """A list without its NULLs: in FHIRPath a collection has no empty items."""
        x = self.name()
        return sql.keep(items, x, sql.present(sql.column(x)))

    def each(self, target: Term, convert: Callable[[Term], Term]) -> Term:
        """Apply a function to one value, or to each item of a list."""
        if not target.many:
            return convert(target)
        x = self.name()
        item = convert(replace(target, tree=sql.column(x), many=False))
        return replace(item, tree=self.present(sql.each(target.raw, x, item.raw)), many=True)

    def _index(self, target: Term, position: fhirpath.Node) -> Term:
        at = self.inside(position, target)
        if at.type_name not in ("integer", "positiveInt", "unsignedInt") or at.many:
            raise self.unsupported("an index must be an integer")
        if isinstance(at.sql, exp.Neg):
            raise self.unsupported("a negative index")
        if target.many:
            return replace(target, tree=sql.call("item", target.raw, at.sql), many=False)
        return replace(target, tree=sql.when((sql.binary(exp.EQ, at.sql, sql.number(0)), target.raw)))

    def _binary(self, operator: str, left: Term, right: Term) -> Term:
        if operator in ("and", "or"):
            for term in (left, right):
                if term.category not in ("boolean", "") or term.many:
                    raise self.unsupported(f"{operator} takes single booleans, got {term.type_name}")
            kind = exp.And if operator == "and" else exp.Or
            return Term(sql.binary(kind, left.sql, right.sql), "boolean")
        if operator in ("=", "!="):
            equal = self._equal(left, right)
            return equal if operator == "=" else replace(equal, tree=sql.negate(equal.sql))
        if operator in _COMPARISONS or operator in _ARITHMETIC:
            if (left.category, right.category) != ("number", "number") or left.many or right.many:
                raise self.unsupported(f"{operator} between {left.type_name} and {right.type_name}")
            if operator in _COMPARISONS:
                return Term(sql.binary(_COMPARISONS[operator], left.sql, right.sql), "boolean")
            return _calculated(operator, left, right)
        raise self.unsupported(f"operator {operator}")

    def _equal(self, left: Term, right: Term) -> Term:
        if not left.type_name or not right.type_name:
            return Term(sql.null("BOOLEAN"), "boolean")
        if left.category != right.category or left.type_name not in PRIMITIVE_TYPES:
            raise self.unsupported(f"comparing {left.type_name} with {right.type_name}")
        if left.many and right.many:
            raise self.unsupported("comparing two collections")
        if right.many:
            left, right = right, left
        if not left.many:
            return Term(_same(left.sql, right.sql, left.category), "boolean")
        # Collections are equal item by item: one of another length than one differs from a single value.
        number = sql.count(left.sql)
        nothing = sql.binary(
            exp.Or, sql.binary(exp.EQ, number, sql.number(0)), sql.negate(sql.present(right.sql))
        )
        first = sql.call("item", left.sql, sql.number(0))
        return Term(
            sql.when(
                (nothing, sql.null("BOOLEAN")),
                (sql.binary(exp.GT, number, sql.number(1)), exp.false()),
                otherwise=_same(first, right.sql, left.category),
            ),
            "boolean",
        )


def _signed(value: int | Decimal) -> Tree:
    literal = sql.number(f"{abs(value):f}" if isinstance(value, Decimal) else abs(value))
    return exp.Neg(this=literal) if value < 0 else literal


def _exact(value: str | float | bool) -> str | Decimal | int | bool:
    return Decimal(repr(value)) if isinstance(value, float) else value


def _calculated(operator: str, left: Term, right: Term) -> Term:
    """A sum, difference, product or quotient; dividing by zero gives the empty collection, as FHIRPath says."""
    whole = operator != "/" and "decimal" not in (left.type_name, right.type_name)
    type_name = "BIGINT" if whole else "DOUBLE"
    first: Tree = exp.cast(left.sql, type_name)
    second: Tree = exp.cast(right.sql, type_name)
    if operator == "/":
        second = sql.function("nullif", second, sql.number(0))
    return Term(sql.binary(_ARITHMETIC[operator], first, second), "integer" if whole else "decimal")


def _same(left: Tree, right: Tree, category: str) -> Tree:
    if category == "temporal":
        return _same_time(left, right)
    if category == "time":
        day = sql.text("2000-01-01 ")
        instants = [sql.call("instant", sql.joined(day, side)) for side in (left, right)]
        return sql.binary(exp.EQ, *instants)
    return sql.binary(exp.EQ, left, right)


def _same_time(left: Tree, right: Tree) -> Tree:
    """Whether two dates are the same: empty when they are of unequal precision, unless what both say differs."""
    lengths = [sql.function("length", side) for side in (left, right)]
    common = sql.function("least", *lengths)
    starts = [sql.function("substring", side, sql.number(1), common) for side in (left, right)]
    missing = [sql.negate(sql.present(side)) for side in (left, right)]
    instants = [sql.call("instant", side) for side in (left, right)]
    timed = [sql.binary(exp.GT, length, sql.number(10)) for length in lengths]
    return sql.when(
        (sql.binary(exp.Or, *missing), sql.null("BOOLEAN")),
        (sql.binary(exp.EQ, left, right), exp.true()),
        (sql.binary(exp.And, *timed), sql.binary(exp.EQ, *instants)),
        (sql.binary(exp.EQ, *starts), sql.null("BOOLEAN")),
        otherwise=exp.false(),
    )
