"""The functions of FHIRPath that views may call. To support another, write it and enter it in `FUNCTIONS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlglot import exp

from gemel.data_adapters.reading.element_types import PRIMITIVE_TYPES, find_element, known_type
from gemel.data_adapters.views import fhirpath
from gemel.data_adapters.views import sql_tree as sql
from gemel.data_adapters.views.boundaries import (
    date_boundary,
    decimal_boundary,
    instant_boundary,
    time_boundary,
)
from gemel.data_adapters.views.expressions import Expression, Term
from gemel.data_adapters.views.sql_tree import Tree

_Arguments = tuple[fhirpath.Node, ...]


def _no_arguments(expression: Expression, name: str, arguments: _Arguments) -> None:
    if arguments:
        raise expression.unsupported(f"{name}() with arguments")


def _exists(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    if arguments:
        target = _where(expression, target, arguments)
    expression.complete(target)
    if target.many:
        return Term(sql.binary(exp.GT, sql.count(target.sql), sql.number(0)), "boolean")
    if target.is_resource:
        return Term(sql.or_false(target.guard) if target.guard is not None else exp.true(), "boolean")
    return Term(exp.Paren(this=sql.present(target.sql)), "boolean")


def _empty(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    _no_arguments(expression, "empty", arguments)
    return Term(sql.negate(_exists(expression, target, ()).sql), "boolean")


def _not(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    _no_arguments(expression, "not", arguments)
    if target.category not in ("boolean", "") or target.many:
        raise expression.unsupported(f"not() takes one boolean, got {target.type_name}")
    return Term(sql.negate(target.sql), "boolean")


def _first(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    _no_arguments(expression, "first", arguments)
    expression.complete(target)
    if not target.many:
        return target
    return replace(target, tree=sql.call("item", target.raw, sql.number(0)), many=False)


def _where(expression: Expression, target: Term, arguments: _Arguments) -> Term:
    expression.complete(target)
    if len(arguments) != 1:
        raise expression.unsupported("where() takes one criterion")
    x = expression.name()
    item = replace(target, tree=sql.column(x), many=False) if target.many else target
    criterion = expression.inside(arguments[0], item)
    if criterion.category not in ("boolean", "") or criterion.many:
        raise expression.unsupported(f"the criterion of where() is {criterion.type_name}, not one boolean")
    if target.many:
        return replace(target, tree=sql.keep(target.raw, x, sql.or_false(criterion.sql)))
    if target.is_resource:
        guards = [criterion.sql] if target.guard is None else [target.guard, criterion.sql]
        return replace(target, guard=sql.both(guards))
    return replace(target, tree=sql.when((criterion.sql, target.raw)))


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
    if not target.is_resource:
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
        replace(references, shape=None), lambda item: Term(_key_of(item.sql, pattern), "id")
    )


def _key_of(reference: Tree, type_pattern: str) -> Tree:
    """The id in a reference to a resource of the type, as the last part of a path or a URL."""
    pattern = f"(?:^|/){type_pattern}/([A-Za-z0-9.-]{{1,64}})(?:/_history/[^/]+)?$"
    found = sql.function("regexp_extract", reference, sql.text(pattern), sql.number(1))
    return sql.when(
        (
            exp.Like(this=reference, expression=sql.text("urn:uuid:%")),
            sql.function("substring", reference, sql.number(10)),
        ),
        otherwise=sql.function("nullif", found, sql.text("")),
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
    items = target.sql if target.many else sql.list_of(target.sql)
    joined = exp.ArrayToString(this=items, expression=sql.text(separator))
    return Term(exp.Coalesce(this=joined, expressions=[sql.text("")]), "string")


def _boundary(expression: Expression, target: Term, arguments: _Arguments, *, high: bool) -> Term:
    """The least or the greatest value that a value of limited precision may stand for."""
    _no_arguments(expression, "highBoundary" if high else "lowBoundary", arguments)
    expression.complete(target)
    if target.type_name == "decimal" and target.shape is not None:
        target.shape.exact = True  # `compile_views` compiles again when this was not known before.
        convert = decimal_boundary
    elif target.type_name == "date":
        convert = date_boundary
    elif target.type_name in ("dateTime", "instant"):
        convert = instant_boundary
    elif target.type_name == "time":
        convert = time_boundary
    else:
        raise expression.unsupported(f"a boundary of a {target.type_name or 'value that is empty'}")
    return expression.each(
        replace(target, shape=None), lambda item: Term(convert(item.raw, high=high), item.type_name)
    )


FUNCTIONS: dict[str, Callable[[Expression, Term, _Arguments], Term]] = {
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
    "lowBoundary": lambda expression, target, arguments: _boundary(expression, target, arguments, high=False),
    "highBoundary": lambda expression, target, arguments: _boundary(expression, target, arguments, high=True),
}
