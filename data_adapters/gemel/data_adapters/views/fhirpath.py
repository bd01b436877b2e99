"""A parser for FHIRPath: text to a small syntax tree. It knows the grammar, not the types (see `compiler`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from gemel.core.errors import GemelError


@dataclass(frozen=True)
class Literal:
    """A string, number, boolean; `value` None stands for the empty collection `{}`."""

    value: str | Decimal | int | bool | None


@dataclass(frozen=True)
class Temporal:
    """A date, dateTime or time literal, without its `@`."""

    text: str


@dataclass(frozen=True)
class Constant:
    """`%name`: a constant of the view, or one of the environment as `%rowIndex`."""

    name: str


@dataclass(frozen=True)
class This:
    """`$this`, or another of FHIRPath's `$` variables."""

    name: str = "this"


@dataclass(frozen=True)
class Member:
    """`target.name`; without a target, the name in the context."""

    target: Node | None
    name: str


@dataclass(frozen=True)
class Call:
    """`target.name(arguments)`; without a target, in the context."""

    target: Node | None
    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Index:
    """`target[position]`."""

    target: Node
    position: Node


@dataclass(frozen=True)
class Unary:
    """`-x` or `+x`."""

    operator: str
    operand: Node


@dataclass(frozen=True)
class Binary:
    """`left operator right`; `is` and `as` have a type name (a Member) on the right."""

    operator: str
    left: Node
    right: Node


Node: TypeAlias = Literal | Temporal | Constant | This | Member | Call | Index | Unary | Binary

_TOKENS = re.compile(
    r"""\s*(?:
      (?P<time>@[0-9T][0-9T:.Z+\-]*)
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<string>'(?:[^'\\]|\\.)*')
    | (?P<constant>%(?:`[^`]+`|'(?:[^'\\]|\\.)*'|[A-Za-z_][A-Za-z0-9_\-]*))
    | (?P<dollar>\$(?:this|index|total))
    | (?P<quoted>`[^`]+`)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<operator><=|>=|!=|!~|[=~<>+\-*/|&().,\[\]{}])
    )""",
    re.VERBOSE | re.DOTALL,
)

# Looser to tighter, as in the FHIRPath grammar.
_PRECEDENCE = {
    "implies": 1,
    "or": 2,
    "xor": 2,
    "and": 3,
    "in": 4,
    "contains": 4,
    "=": 5,
    "~": 5,
    "!=": 5,
    "!~": 5,
    "<=": 6,
    "<": 6,
    ">": 6,
    ">=": 6,
    "|": 7,
    "is": 8,
    "as": 8,
    "+": 9,
    "-": 9,
    "&": 9,
    "*": 10,
    "/": 10,
    "div": 10,
    "mod": 10,
}
_UNARY_PRECEDENCE = 11
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_MAX_DEPTH = 60


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def parse(text: str) -> Node:
    """Parse one expression. Raises GEM209 that quotes it when it is not FHIRPath.

    >>> parse("name.first().family")
    Member(target=Call(target=Member(target=None, name='name'), name='first', arguments=()), name='family')
    """
    parser = _Parser(text)
    node = parser.expression(0)
    parser.expect("end", "")
    return node


def _unescape(body: str) -> str:
    def replace(match: re.Match[str]) -> str:
        escape = match.group(1)
        if escape[0] == "u" and len(escape) == 5:
            return chr(int(escape[1:], 16))
        return _ESCAPES.get(escape, escape)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, body, flags=re.DOTALL)


class _Parser:
    """Precedence climbing over a token list."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenize()
        self._position = 0
        self._depth = 0

    def _fail(self, reason: str) -> GemelError:
        return GemelError("GEM209", f"Not a FHIRPath expression: {self._text!r}: {reason}.")

    def _tokenize(self) -> list[_Token]:
        tokens, at = [], 0
        end = len(self._text.rstrip())
        while at < end:
            match = _TOKENS.match(self._text, at)
            kind = match.lastgroup if match is not None else None
            if match is None or kind is None:
                raise self._fail(f"unexpected {self._text[at:].strip()[:10]!r}")
            tokens.append(_Token(kind, match.group(kind)))
            at = match.end()
        tokens.append(_Token("end", ""))
        return tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self) -> _Token:
        token = self._next
        self._position += 1
        return token

    def expect(self, kind: str, text: str) -> None:
        """Take a token of that kind and text, or fail."""
        if (self._next.kind, self._next.text) != (kind, text):
            raise self._fail(f"expected {text or 'the end'!r}, got {self._next.text or 'the end'!r}")
        self._position += 1

    def expression(self, minimum: int) -> Node:
        """An expression whose operators bind tighter than `minimum`."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fail("too deeply nested")
        left = self._prefix()
        while True:
            token = self._next
            level = _PRECEDENCE.get(token.text) if token.kind in ("operator", "name") else None
            if level is None or level <= minimum:
                break
            self._take()
            left = Binary(token.text, left, self.expression(level))
        self._depth -= 1
        return left

    def _prefix(self) -> Node:
        if self._next.kind == "operator" and self._next.text in "+-":
            operator = self._take().text
            return Unary(operator, self.expression(_UNARY_PRECEDENCE))
        return self._postfix(self._primary())

    def _postfix(self, node: Node) -> Node:
        while self._next.kind == "operator" and self._next.text in ".[":
            if self._take().text == ".":
                node = self._invocation(node)
            else:
                node = Index(node, self.expression(0))
                self.expect("operator", "]")
        return node

    def _invocation(self, target: Node | None) -> Node:
        token = self._take()
        if token.kind == "dollar" and target is None:
            return This(token.text[1:])
        if token.kind == "quoted":
            return Member(target, token.text[1:-1])
        if token.kind != "name":
            raise self._fail(f"expected a name, got {token.text or 'the end'!r}")
        if (self._next.kind, self._next.text) != ("operator", "("):
            return Member(target, token.text)
        self._take()
        arguments: list[Node] = []
        while (self._next.kind, self._next.text) != ("operator", ")"):
            if arguments:
                self.expect("operator", ",")
            arguments.append(self.expression(0))
        self._take()
        return Call(target, token.text, tuple(arguments))

    def _primary(self) -> Node:
        token = self._next
        if token.kind in ("name", "quoted", "dollar"):
            if token.text in ("true", "false"):
                self._take()
                return Literal(token.text == "true")
            return self._invocation(None)
        self._take()
        if token.kind == "number":
            return Literal(Decimal(token.text) if "." in token.text else int(token.text))
        if token.kind == "string":
            return Literal(_unescape(token.text[1:-1]))
        if token.kind == "time":
            return Temporal(token.text[1:])
        if token.kind == "constant":
            return Constant(token.text[1:].strip("`'"))
        if (token.kind, token.text) == ("operator", "("):
            node = self.expression(0)
            self.expect("operator", ")")
            return node
        if (token.kind, token.text) == ("operator", "{"):
            self.expect("operator", "}")
            return Literal(None)
        raise self._fail(f"unexpected {token.text or 'end'!r}")
