"""FHIRPath to DuckDB SQL, typed by FHIR's own element table. What is not supported is refused (GEM209).

Every expression becomes a `Term`: SQL that gives one value, or a list when the path may repeat. Empty is NULL, or
the empty list. To support another function, write one and enter it in `_FUNCTIONS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import (
    NUMBER_TYPES,
    PRIMITIVE_TYPES,
    STRING_TYPES,
    TEMPORAL_TYPES,
    find_element,
    known_type,
)
from gemel.data_adapters.reading.shape import Shape, quote_name, quote_text
from gemel.data_adapters.views import fhirpath
from gemel.data_adapters.views.view_definition import ViewConstant

# Made once on each connection; the generated SQL calls them.
MACROS = (
    # Dates of unequal precision are neither equal nor different (empty) unless what both say differs.
    """CREATE OR REPLACE TEMP MACRO fhir_same_time(a, b) AS CASE
        WHEN a IS NULL OR b IS NULL THEN NULL
        WHEN a = b THEN TRUE
        WHEN length(a) > 10 AND length(b) > 10
            THEN TRY_CAST(a AS TIMESTAMPTZ) = TRY_CAST(b AS TIMESTAMPTZ)
        WHEN left(a, least(length(a), length(b))) = left(b, least(length(a), length(b))) THEN NULL
        ELSE FALSE END""",
    r"""CREATE OR REPLACE TEMP MACRO fhir_reference_key(reference, type_pattern) AS CASE
        WHEN reference LIKE 'urn:uuid:%' THEN substr(reference, 10)
        ELSE nullif(regexp_extract(reference,
            '(?:^|/)' || type_pattern || '/([A-Za-z0-9.\-]{1,64})(?:/_history/[^/]+)?$', 1), '') END""",
)


@dataclass(frozen=True)
class Term:
    """A compiled expression: its SQL, FHIR type, and whether it is a list.

    `shape` is set for elements (what lies below is recorded there); `choice` for `value[x]` before `ofType`,
    where `sql` and `shape` are still those of the parent. An empty `type_name` is the empty collection.
    """

    sql: str
    type_name: str
    many: bool = False
    shape: Shape | None = None
    choice: str | None = None

    @property
    def category(self) -> str:
        """The family within which values compare: string, number, boolean, temporal, time; else the type."""
        for name, types in (("string", STRING_TYPES), ("number", NUMBER_TYPES), ("temporal", TEMPORAL_TYPES)):
            if self.type_name in types:
                return name
        return self.type_name


@dataclass(frozen=True)
class Context:
    """Where an expression is evaluated: the focus, and the row's position in its `forEach`."""

    focus: Term
    row_index: str = "0"


class Expression:
    """One FHIRPath expression in one context; `term()` compiles it."""

    def __init__(self, path: str, context: Context, constants: Mapping[str, ViewConstant]) -> None:
        self.path = path
        self._context = context
        self._constants = constants
        self._names: Iterator[str] = (f"x{i}" for i in itertools.count(1))

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
                    return Term(quote_text(text[1:]), "time")
                return Term(quote_text(text.removesuffix("T")), "dateTime" if "T" in text else "date")
            case fhirpath.Constant(name):
                return self._constant(name)
            case fhirpath.This("this"):
                return focus
            case fhirpath.Member(target, name):
                return self.step(self._target(target, focus), name)
            case fhirpath.Call(target, name, arguments):
                function = _FUNCTIONS.get(name)
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
                return Term("NULL", "")
            case bool():
                return Term("TRUE" if value else "FALSE", "boolean")
            case int():
                return Term(str(value), "integer")
            case Decimal():
                return Term(f"CAST({value} AS DOUBLE)", "decimal")
        return Term(quote_text(value), "string")

    def _constant(self, name: str) -> Term:
        if name == "rowIndex":
            return Term(self._context.row_index, "integer")
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
        field = quote_name(name)
        if not target.many:
            sql = f"({target.sql}).{field}"
            return Term(self.present(sql) if repeats else sql, type_name, repeats, shape)
        x = self.name()
        sql = f"list_transform({target.sql}, lambda {x}: {x}.{field})"
        return Term(self.present(f"flatten({sql})" if repeats else sql), type_name, True, shape)

    def name(self) -> str:
        """A fresh name for a lambda's parameter."""
        return next(self._names)

    def present(self, items: str) -> str:
        """A list without its NULLs: in FHIRPath a collection has no empty items."""
        x = self.name()
        return f"list_filter({items}, lambda {x}: {x} IS NOT NULL)"

    def each(self, target: Term, convert: Callable[[Term], Term]) -> Term:
        """Apply a function to one value, or to each item of a list."""
        if not target.many:
            return convert(target)
        x = self.name()
        item = convert(replace(target, sql=x, many=False))
        return replace(
            item, sql=self.present(f"list_transform({target.sql}, lambda {x}: {item.sql})"), many=True
        )

    def _index(self, target: Term, position: fhirpath.Node) -> Term:
        at = self.inside(position, target)
        if at.type_name not in ("integer", "positiveInt", "unsignedInt") or at.many:
            raise self.unsupported("an index must be an integer")
        if at.sql.startswith("-"):
            raise self.unsupported("a negative index")
        if target.many:
            return replace(target, sql=f"({target.sql})[{at.sql} + 1]", many=False)
        return replace(target, sql=f"CASE WHEN {at.sql} = 0 THEN {target.sql} END")

    def _binary(self, operator: str, left: Term, right: Term) -> Term:
        if operator in ("and", "or"):
            for term in (left, right):
                if term.category not in ("boolean", "") or term.many:
                    raise self.unsupported(f"{operator} takes single booleans, got {term.type_name}")
            return Term(f"({left.sql} {operator.upper()} {right.sql})", "boolean")
        if operator in ("=", "!="):
            equal = self._equal(left, right)
            return equal if operator == "=" else replace(equal, sql=f"(NOT {equal.sql})")
        if operator in ("<", "<=", ">", ">="):
            if (left.category, right.category) != ("number", "number") or left.many or right.many:
                raise self.unsupported(f"{operator} between {left.type_name} and {right.type_name}")
            return Term(f"({left.sql} {operator} {right.sql})", "boolean")
        raise self.unsupported(f"operator {operator}")

    def _equal(self, left: Term, right: Term) -> Term:
        if not left.type_name or not right.type_name:
            return Term("CAST(NULL AS BOOLEAN)", "boolean")
        if left.category != right.category or left.type_name not in PRIMITIVE_TYPES:
            raise self.unsupported(f"comparing {left.type_name} with {right.type_name}")
        if left.many and right.many:
            raise self.unsupported("comparing two collections")
        if right.many:
            left, right = right, left
        if not left.many:
            return Term(_same(left.sql, right.sql, left.category), "boolean")
        # Collections are equal item by item: one of another length than one differs from a single value.
        return Term(
            f"(CASE WHEN coalesce(len({left.sql}), 0) = 0 OR {right.sql} IS NULL THEN NULL "
            f"WHEN len({left.sql}) > 1 THEN FALSE ELSE {_same(f'({left.sql})[1]', right.sql, left.category)} END)",
            "boolean",
        )


def _exact(value: str | float | bool) -> str | Decimal | int | bool:
    return Decimal(repr(value)) if isinstance(value, float) else value


def _same(left: str, right: str, category: str) -> str:
    if category == "temporal":
        return f"fhir_same_time({left}, {right})"
    if category == "time":
        return f"(TRY_CAST({left} AS TIME) = TRY_CAST({right} AS TIME))"
    return f"({left} = {right})"


_Arguments = tuple[fhirpath.Node, ...]


def _no_arguments(expression: Expression, name: str, arguments: _Arguments) -> None:
    if arguments:
        raise expression.unsupported(f"{name}() with arguments")


def _exists(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    if arguments:
        target = _where(expression, target, arguments)
    expression.complete(target)
    if target.many:
        return Term(f"(coalesce(len({target.sql}), 0) > 0)", "boolean")
    return Term(f"({target.sql} IS NOT NULL)", "boolean")


def _empty(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    _no_arguments(expression, "empty", arguments)
    return Term(f"(NOT {_exists(expression, target, ()).sql})", "boolean")


def _not(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    _no_arguments(expression, "not", arguments)
    if target.category not in ("boolean", "") or target.many:
        raise expression.unsupported(f"not() takes one boolean, got {target.type_name}")
    return Term(f"(NOT {target.sql})", "boolean")


def _first(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    _no_arguments(expression, "first", arguments)
    expression.complete(target)
    return replace(target, sql=f"({target.sql})[1]", many=False) if target.many else target


def _where(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    expression.complete(target)
    if len(arguments) != 1:
        raise expression.unsupported("where() takes one criterion")
    x = expression.name()
    item = replace(target, sql=x if target.many else target.sql, many=False)
    criterion = expression.inside(arguments[0], item)
    if criterion.category not in ("boolean", "") or criterion.many:
        raise expression.unsupported(f"the criterion of where() is {criterion.type_name}, not one boolean")
    if target.many:
        return replace(target, sql=f"list_filter({target.sql}, lambda {x}: coalesce({criterion.sql}, FALSE))")
    return replace(target, sql=f"(CASE WHEN {criterion.sql} THEN {target.sql} END)")


def _of_type(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    match arguments:
        case (fhirpath.Member(None, name),) | (fhirpath.Member(fhirpath.Member(None, "FHIR"), name),):
            pass
        case _:
            raise expression.unsupported("ofType() takes a type name")
    if target.choice is None:
        raise expression.unsupported(f"ofType({name}) on {target.type_name}, which is no choice element")
    element = find_element(target.type_name, target.choice)
    if element is None or name not in element.types:
        raise expression.unsupported(f"{target.choice}[x] is never a {name}")
    field = target.choice + name[0].upper() + name[1:]
    return expression.child(replace(target, choice=None), field, name, repeats=False)


def _resource_key(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    _no_arguments(expression, "getResourceKey", arguments)
    if target.sql != "r":
        raise expression.unsupported("getResourceKey() away from the resource")
    return replace(expression.child(target, "id", "id", repeats=False), shape=None)


def _reference_key(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    pattern = "[A-Z][A-Za-z]*"
    match arguments:
        case ():
            pass
        case (fhirpath.Member(None, name),) if known_type(name):
            pattern = name
        case _:
            raise expression.unsupported("getReferenceKey() takes the name of a resource type")
    expression.complete(target)
    if target.type_name != "Reference":
        raise expression.unsupported(f"getReferenceKey() on {target.type_name}")
    references = expression.child(target, "reference", "string", repeats=False)
    return expression.each(
        replace(references, shape=None),
        lambda item: Term(f"fhir_reference_key({item.sql}, {quote_text(pattern)})", "id"),
    )


def _extension(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    match arguments:
        case (fhirpath.Literal(str(url)),):
            pass
        case _:
            raise expression.unsupported("extension() takes a URL")
    if target.type_name in PRIMITIVE_TYPES:
        raise expression.unsupported("extension() of a primitive")
    step = expression.step(target, "extension")
    criterion = fhirpath.Binary("=", fhirpath.Member(None, "url"), fhirpath.Literal(url))
    return _where(expression, step, (criterion,))


def _join(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    match arguments:
        case ():
            separator = ""
        case (fhirpath.Literal(str(separator)),):
            pass
        case _:
            raise expression.unsupported("join() takes one string")
    if target.category != "string":
        raise expression.unsupported(f"join() of {target.type_name}")
    items = target.sql if target.many else f"[{target.sql}]"
    return Term(f"coalesce(array_to_string({items}, {quote_text(separator)}), '')", "string")


_FUNCTIONS: dict[str, Callable[[Expression, Term, _Arguments], Term]] = {
    "exists": _exists,
    "empty": _empty,
    "not": _not,
    "first": _first,
    "where": _where,
    "ofType": _of_type,
    "getResourceKey": _resource_key,
    "getReferenceKey": _reference_key,
    "extension": _extension,
    "join": _join,
}
