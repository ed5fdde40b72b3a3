"""From tokens to functions, in one pass of recursive descent.

    filter      condition
    condition   term {OR term}             term    factor {AND factor}       factor  NOT factor | test
    test        value = <> != < <= > >= value | value IS [NOT] NULL | EXISTS (property) | (condition)
                value [NOT] IN (value, …) | value [NOT] LIKE value [ESCAPE value]
    value       product {+|- product}      product sign {*|/|% sign}         sign    +|- sign | primary
    primary     constant | @parameter | property | newid() | property(value) | p(value) | (value)
    property    [sys. | user.] name
    action      statement {[;] statement}  statement   SET property = value | REMOVE property

The grammar is that of learn.microsoft.com/azure/service-bus-messaging/service-bus-messaging-sql-filter
and service-bus-messaging-sql-rule-action.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from servicebus_local.bus.errors import FilterError, InvalidArgument
from servicebus_local.bus.properties import plain
from servicebus_local.bus.sql import operators as build
from servicebus_local.bus.sql.lexer import Source, Token, tokens
from servicebus_local.bus.sql.like import matcher
from servicebus_local.bus.sql.operators import Condition, Statement, Value
from servicebus_local.bus.sql.values import ARITHMETIC, COMPARISONS, negative, positive

LENGTH_LIMIT: Final = 1024  # of a filter or an action, as Azure's quotas have it
STATEMENT_LIMIT: Final = 32  # of an action, likewise
DEPTH_LIMIT: Final = 32  # of parentheses, NOT and signs: ours, so that no text exhausts the stack

_VARIES: Final = object()


class _Node(NamedTuple):
    """A part of an expression: what it evaluates to, and where it begins."""

    evaluate: Value
    token: Token
    is_condition: bool = False
    value: Any = _VARIES  # of what is the same for every message


def compile_filter(expression: str, parameters: Mapping[str, Any]) -> Condition:
    """Compile a condition; raises `InvalidArgument` when it is not one."""
    return _Parser(Source("filter", expression), parameters).filter()


def compile_action(expression: str, parameters: Mapping[str, Any]) -> list[Statement]:
    """Compile the statements of an action; raises `InvalidArgument` when they are none."""
    return _Parser(Source("action", expression), parameters).action()


class _Parser:
    def __init__(self, source: Source, parameters: Mapping[str, Any]) -> None:
        if len(source.text) > LENGTH_LIMIT:
            raise InvalidArgument(
                f"a SQL {source.what} may have {LENGTH_LIMIT} characters, this one has {len(source.text)}"
            )
        self._source = source
        self._parameters = {name.removeprefix("@").lower(): plain(value) for name, value in parameters.items()}
        self._tokens = list(tokens(source))
        self._at = 0
        self._depth = 0

    def filter(self) -> Condition:
        condition = self._condition(self._disjunction())
        if self._next.kind != "end":
            raise self._wrong("AND, OR or the end")
        return condition

    def action(self) -> list[Statement]:
        statements = [self._statement()]
        while self._next.kind != "end":
            statements.append(self._statement())
        if len(statements) > STATEMENT_LIMIT:
            raise InvalidArgument(f"a SQL action may have {STATEMENT_LIMIT} statements, this one has {len(statements)}")
        return statements

    # ------------------------------------------------------------------ tokens

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _advance(self) -> Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _accept(self, *words: str) -> Token | None:
        """Take the next token if it is one of these keywords or symbols."""
        if self._next.kind in ("keyword", "symbol") and self._next.value in words:
            return self._advance()
        return None

    def _expect(self, word: str) -> None:
        if self._accept(word) is None:
            raise self._wrong(f"'{word}'")

    def _wrong(self, expected: str, token: Token | None = None) -> InvalidArgument:
        token = token or self._next
        found = token.written if token.kind == "end" else f"'{token.written}'"
        return self._source.wrong(token.at, found, expected)

    def _nested(self, parse: Callable[[], _Node]) -> _Node:
        """Parse one level deeper."""
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise self._wrong(f"an expression of no more than {DEPTH_LIMIT} levels")
        node = parse()
        self._depth -= 1
        return node

    # ------------------------------------------------------------------ conditions

    def _condition(self, node: _Node) -> Condition:
        """Insist on a condition; the next token is where its operator would be."""
        if not node.is_condition:
            raise self._wrong("a comparison, IS, IN or LIKE")
        return node.evaluate

    def _disjunction(self) -> _Node:
        return self._joined("OR", self._conjunction, build.disjunction)

    def _conjunction(self) -> _Node:
        return self._joined("AND", self._negation, build.conjunction)

    def _joined(self, word: str, parse: Callable[[], _Node], join: Callable[[list[Condition]], Condition]) -> _Node:
        first = parse()
        if self._next.kind != "keyword" or self._next.value != word:
            return first
        terms = [self._condition(first)]
        while self._accept(word):
            terms.append(self._condition(parse()))
        return _Node(join(terms), first.token, is_condition=True)

    def _negation(self) -> _Node:
        token = self._accept("NOT")
        if token is None:
            return self._test()
        return _Node(build.negation(self._condition(self._nested(self._negation))), token, is_condition=True)

    def _test(self) -> _Node:
        left = self._sum()
        if left.is_condition:
            return left
        if operator := self._accept(*COMPARISONS):
            condition = build.comparison(COMPARISONS[operator.value], left.evaluate, self._value(self._sum()))
        elif self._accept("IS"):
            negated = self._accept("NOT")
            self._expect("NULL")
            is_null = build.is_null(left.evaluate)
            condition = build.negation(is_null) if negated else is_null
        elif self._next.kind == "keyword" and self._next.value in ("NOT", "IN", "LIKE"):
            condition = self._list_or_pattern(left)
        else:
            return left
        return _Node(condition, left.token, is_condition=True)

    def _list_or_pattern(self, left: _Node) -> Condition:
        negated = self._accept("NOT")
        if self._accept("IN"):
            self._expect("(")
            items = [self._value(self._sum())]
            while self._accept(","):
                items.append(self._value(self._sum()))
            self._expect(")")
            condition = build.membership(left.evaluate, items)
        elif self._accept("LIKE"):
            condition = self._pattern(left)
        else:
            raise self._wrong("IN or LIKE")
        return build.negation(condition) if negated else condition

    def _pattern(self, left: _Node) -> Condition:
        pattern = self._sum()
        escape = self._sum() if self._accept("ESCAPE") else None
        evaluate, mark = self._value(pattern), None if escape is None else self._value(escape)
        if pattern.value is _VARIES or (escape is not None and escape.value is _VARIES):
            return build.like(left.evaluate, evaluate, mark)
        shape, escaped_by = self._text(pattern), None if escape is None else self._text(escape)
        if shape is None or (escape is not None and escaped_by is None):
            return build.like_constant(left.evaluate, None)  # a part of the pattern is NULL
        try:
            return build.like_constant(left.evaluate, matcher(shape, escaped_by))
        except FilterError as error:
            raise InvalidArgument(f"SQL {self._source.what}: {error}") from error

    def _text(self, node: _Node) -> str | None:
        if node.value is None or isinstance(node.value, str):
            return node.value
        raise self._wrong("text", node.token)

    # ------------------------------------------------------------------ values

    def _value(self, node: _Node) -> Value:
        """Insist on a value."""
        if node.is_condition:
            raise self._wrong("a value", node.token)
        return node.evaluate

    def _sum(self) -> _Node:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> _Node:
        return self._chain(("*", "/", "%"), self._sign)

    def _chain(self, symbols: tuple[str, ...], parse: Callable[[], _Node]) -> _Node:
        first, rest = parse(), []
        while operator := self._accept(*symbols):
            rest.append((ARITHMETIC[operator.value], self._value(parse())))
        return _Node(build.chain(self._value(first), rest), first.token) if rest else first

    def _sign(self) -> _Node:
        token = self._accept("+", "-")
        if token is None:
            return self._primary()
        operand = self._value(self._nested(self._sign))
        return _Node(build.signed(negative if token.value == "-" else positive, operand), token)

    def _primary(self) -> _Node:
        token = self._next
        if token.kind in ("number", "string"):
            return self._constant(self._advance(), token.value)
        if token.kind == "parameter":
            return self._constant(self._advance(), self._parameter(token))
        if token.kind in ("name", "delimited"):
            return self._call() if self._is_call() else self._property_value()
        if self._accept("("):
            node = self._nested(self._disjunction)
            self._expect(")")
            return node._replace(token=token)
        if self._accept("EXISTS"):
            return self._existence(token)
        if self._accept(*_LITERALS):
            return self._constant(token, _LITERALS[token.value])
        raise self._wrong("a value or a condition")

    def _constant(self, token: Token, value: Any) -> _Node:
        return _Node(build.constant(value), token, value=value)

    def _parameter(self, token: Token) -> Any:
        if token.value.lower() not in self._parameters:
            raise self._wrong("a parameter that has a value", token)
        return self._parameters[token.value.lower()]

    def _is_call(self) -> bool:
        following = self._tokens[self._at + 1]
        return self._next.kind == "name" and following.value == "(" and following.kind == "symbol"

    def _call(self) -> _Node:
        token = self._advance()
        name = token.value.lower()
        if name not in ("newid", "property", "p"):
            raise self._wrong("newid, property or p", token)
        self._expect("(")
        value = build.new_id if name == "newid" else build.property_named(self._value(self._sum()))
        self._expect(")")
        return _Node(value, token)

    def _property_value(self) -> _Node:
        token = self._next
        is_system, name = self._property()
        return _Node(build.system_property(name) if is_system else build.user_property(name), token)

    def _existence(self, token: Token) -> _Node:
        self._expect("(")
        is_system, name = self._property()
        self._expect(")")
        condition = build.system_exists(name) if is_system else build.user_exists(name)
        return _Node(condition, token, is_condition=True)

    def _property(self) -> tuple[bool, str]:
        """Parse a property: whether it is the system's, and its name."""
        token = self._name()
        if token.kind != "name" or self._accept(".") is None:
            return False, token.value
        scope = token.value.lower()
        if scope not in ("sys", "user"):
            raise self._wrong("sys or user in front of the dot (names with a dot go in brackets)", token)
        return scope == "sys", self._name().value

    def _name(self) -> Token:
        if self._next.kind not in ("name", "delimited"):
            raise self._wrong("the name of a property")
        return self._advance()

    # ------------------------------------------------------------------ statements

    def _statement(self) -> Statement:
        word = self._accept("SET", "REMOVE")
        if word is None:
            raise self._wrong("SET or REMOVE")
        is_system, name = self._property()
        value = build.constant(None)
        if word.value == "SET":
            self._expect("=")
            value = self._value(self._sum())
        self._accept(";", ",")
        if is_system:
            return build.set_system(name, value)
        return build.remove_user(name) if word.value == "REMOVE" else build.set_user(name, value)


_LITERALS: Final = {"TRUE": True, "FALSE": False, "NULL": None}
