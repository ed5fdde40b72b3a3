"""The SQL of rules: the grammar, three-valued logic, C#'s arithmetic, LIKE, and what is refused where.

Generated expressions are written out with as few parentheses as precedence allows and compared
with a reference that computes truth as numbers: 0 false, 1/2 unknown, 1 true.
"""

import ctypes
import math
import re
from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servicebus_local.amqp.types import Described, Symbol, Timestamp, Uuid, encode
from servicebus_local.bus.errors import FilterError, InvalidArgument
from servicebus_local.bus.properties import Properties
from servicebus_local.bus.sql import compile_action, compile_filter
from tests.examples import examples

ID = Uuid(bytes.fromhex("0123456789abcdef0123456789abcdef"))
USER: dict[str, Any] = {
    "color": "red",
    "size": 3,
    "half": 0.5,
    "flag": True,
    "empty": None,
    "due": Timestamp(60_000),
    "wait": Described(Symbol("com.microsoft:timespan"), 10_000_000),
    "id": ID,
    "odd name": "odd",
    "a]b": "bracket",
    "naïve": 1,
    "and": "keyword",
    "p": "color",
    "lines": "one\ntwo",
}


def properties(user: dict[str, Any]) -> Properties:
    fields = encode(["id-1", None, None, "urgent"])
    return Properties.of(b"\x00\x53\x73" + fields + b"\x00\x53\x74" + encode(user) + b"\x00\x53\x75\xa0\x00")


MESSAGE = properties(USER)


def truth(expression: str, parameters: dict[str, Any] | None = None) -> bool | None:
    return compile_filter(expression, parameters or {})(MESSAGE)


# --------------------------------------------------------------------------- three-valued logic

TRUTHS = {"1 = 1": True, "1 = 0": False, "nothing = 1": None}


@pytest.mark.parametrize(("left", "right"), list(product(TRUTHS, TRUTHS)))
def test_and_or_know_what_is_unknown(left: str, right: str) -> None:
    values = (TRUTHS[left], TRUTHS[right])
    conjunction = False if False in values else None if None in values else True
    disjunction = True if True in values else None if None in values else False
    assert truth(f"{left} AND {right}") is conjunction
    assert truth(f"{left} OR {right}") is disjunction


@pytest.mark.parametrize(("term", "value"), list(TRUTHS.items()))
def test_not_knows_what_is_unknown(term: str, value: bool | None) -> None:
    assert truth(f"NOT {term}") is (None if value is None else not value)
    assert truth(f"NOT NOT ({term})") is value


@pytest.mark.parametrize("operator", ["=", "<>", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("missing", ["nothing", "NULL", "empty", "sys.To"])
def test_a_comparison_with_what_is_missing_is_unknown(operator: str, missing: str) -> None:
    assert truth(f"{missing} {operator} 1") is None
    assert truth(f"1 {operator} {missing}") is None
    assert truth(f"{missing} {operator} {missing}") is None


@pytest.mark.parametrize("operator", ["+", "-", "*", "/", "%"])
def test_arithmetic_with_what_is_missing_is_unknown(operator: str) -> None:
    assert truth(f"nothing {operator} 1 IS NULL") is True
    assert truth(f"1 {operator} nothing IS NULL") is True
    assert truth("-nothing IS NULL AND +nothing IS NULL") is True


# --------------------------------------------------------------------------- the grammar, by examples


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # comparison
        ("color = 'red'", True),
        ("color = 'RED'", False),
        ("color <> 'blue' AND color != 'blue'", True),
        ("color < 'ree' AND color >= 'red' AND color > 'r'", True),
        ("size = 3.0 AND size < 3.5 AND half > 0", True),
        ("size >= 3 AND size <= 3", True),
        ("flag = TRUE", True),
        ("flag <> false", True),
        ("size = '3'", False),
        ("size <> '3'", True),
        ("flag = 1", False),
        ("id = '01234567-89ab-cdef-0123-456789abcdef'", False),
        ("id = id AND newid() <> id", True),
        ("due = due AND due >= due", True),
        # names and scopes
        ("user.color = 'red' AND USER.COLOR = 'red'", True),
        ("sys.Label = 'urgent' AND SYS.subject = 'urgent' AND sys . MessageId = 'id-1'", True),
        ("Label = 'urgent'", None),
        ("[odd name] = 'odd' AND user.[odd name] = 'odd' AND \"odd name\" = 'odd'", True),
        ("[a]]b] = 'bracket'", True),
        ("naïve = 1", True),
        ("[and] = 'keyword'", True),
        ("p = 'color' AND p('color') = 'red' AND PROPERTY('COL' + 'or') = 'red'", True),
        ("p(p) = 'red' AND p(nothing) IS NULL", True),
        ("[p] = 'color'", True),
        # null and existence
        ("nothing IS NULL AND empty IS NULL AND color IS NOT NULL", True),
        ("EXISTS(color) AND EXISTS (user.empty) AND NOT EXISTS(nothing)", True),
        ("exists(sys.Label) AND NOT exists(sys.To) AND sys.To is null", True),
        ("NULL IS NULL", True),
        # lists
        ("color IN ('blue', 'red')", True),
        ("color NOT IN ('blue', 'red')", False),
        ("color IN ('blue')", False),
        ("size IN (1, 1 + 1, half * 6)", True),
        ("color IN ('blue', nothing)", None),
        ("color IN ('red', nothing)", True),
        ("color NOT IN ('blue', nothing)", None),
        ("nothing IN ('blue')", None),
        ("nothing NOT IN ('blue')", None),
        # arithmetic
        ("size + 1 * 2 = 5 AND (size + 1) * 2 = 8", True),
        ("10 - 3 - 2 = 5 AND 100 / 10 / 2 = 5 AND 10 % 4 * 2 = 4", True),
        ("-size = -3 AND - -size = 3 AND +size = 3 AND 2*-1 = -2", True),
        ("7 / 2 = 3 AND -7 / 2 = -3 AND 7 % -2 = 1 AND -7 % 2 = -1", True),
        ("7 / 2.0 = 3.5 AND 7.5 % 2 = 1.5 AND 1e2 = 100 AND 0.5E-2 = 0.005 AND .5 = half AND 2. = 2", True),
        ("1.0 / 0 > 9e300 AND -1 / 0.0 < -9e300 AND 0.0 / 0 <> 0.0 / 0 AND 1 % 0.0 <> 1", True),
        ("9223372036854775807 + 1 < 0", True),
        ("'a' + 'b' = 'ab' AND 'a' + 1 = 'a1' AND 1 + 'a' = '1a' AND 'a' + 2.0 = 'a2' AND 'a' + 0.5 = 'a0.5'", True),
        ("'a' + TRUE = 'aTrue' AND '' + id = '01234567-89ab-cdef-0123-456789abcdef'", True),
        ("due - @start = wait AND @start + wait = due AND wait + @start = due", True),
        ("wait + wait > wait AND wait - wait < wait AND due - wait = @start AND -wait < wait", True),
        # precedence
        ("1 = 1 OR 1 = 0 AND 1 = 0", True),
        ("(1 = 1 OR 1 = 0) AND 1 = 0", False),
        ("NOT 1 = 0 AND 1 = 0", False),
        ("NOT (1 = 0 AND 1 = 0)", True),
        ("NOT size IN (1, 2) AND NOT color LIKE 'b%'", True),
        ("((size)) = ((3))", True),
        # writing
        ("color='red'and size=3 or 1=0", True),
        ("\n color\t=\r\n 'red' ", True),
        ("color = 'it''s' OR color <> ''''", True),
    ],
)
def test_examples(expression: str, expected: bool | None) -> None:
    assert truth(expression, {"start": Timestamp(59_000)}) is expected


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("size > 'three'", "'>' does not apply to a number"),
        ("flag < TRUE", "'<' does not apply to a boolean"),
        ("id <= 1", "'<=' does not apply to an id"),
        ("due >= 1", "'>=' does not apply to a moment"),
        ("size - 'a' = 1", "'-' does not apply to a number"),
        ("flag * 2 = 2", r"'\*' does not apply to a boolean"),
        ("wait % 2 = 1", "'%' does not apply to a duration"),
        ("due + due = due", r"'\+' does not apply to a moment"),
        ("size + wait = wait", r"'\+' does not apply to a number"),
        ("color - wait = wait", "'-' does not apply to text"),
        ("'a' + due = 'a'", "cannot be written as text"),
        ("1 / (size - 3) = 1", "divided by zero"),
        ("1 % 0 = 1", "divided by zero"),
        ("-color = 1", "has no sign"),
        ("size LIKE '3'", "LIKE is for text"),
        ("color LIKE size", "LIKE is for text"),
        ("color LIKE color ESCAPE size", "LIKE is for text"),
        ("color LIKE color ESCAPE color", "one character"),
        ("p(size) = 1", "must be text"),
        ("sys.Colour = 'red'", "no system property"),
        ("sys.Colour IS NULL", "no system property"),
        ("EXISTS(sys.Colour)", "no system property"),
        ("@long + @long = wait", "out of range"),
        ("due + @long = due", None),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(expression: str, reason: str | None) -> None:
    condition = compile_filter(expression, {"long": timedelta.max})
    if reason is None:
        assert condition(MESSAGE) is False
    else:
        with pytest.raises(FilterError, match=reason):
            condition(MESSAGE)


def test_moments_too_far_apart_are_an_error() -> None:
    far = properties({"a": Timestamp(2**63 - 1), "b": Timestamp(-(2**63))})
    with pytest.raises(FilterError, match="out of range"):
        compile_filter("a - b > @none", {"none": timedelta()})(far)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 = 0 AND 1 / 0 = 1", False),
        ("1 = 1 OR 1 / 0 = 1", True),
        ("color <> 'red' AND color > 5", False),
    ],
)
def test_what_is_decided_is_not_evaluated_further(expression: str, expected: bool) -> None:
    assert truth(expression) is expected


# --------------------------------------------------------------------------- LIKE


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("color LIKE 'red'", True),
        ("color LIKE 'r%' AND color LIKE '%d' AND color LIKE '%e%' AND color LIKE '%'", True),
        ("color LIKE 'r_d' AND color LIKE '___'", True),
        ("color LIKE 're' OR color LIKE '_' OR color LIKE 'RED'", False),
        ("color NOT LIKE 'b%'", True),
        ("lines LIKE 'one%two' AND lines LIKE 'one_two'", True),
        ("'50%' LIKE '50!%' ESCAPE '!' AND '50x' NOT LIKE '50!%' ESCAPE '!'", True),
        ("'a\\b' LIKE 'a\\\\b' ESCAPE '\\'", True),
        ("'a_b' LIKE 'a\\_b' ESCAPE '\\' AND 'axb' NOT LIKE 'a\\_b' ESCAPE '\\'", True),
        ("'[a]' LIKE '[a]' AND 'a' NOT LIKE '[a]' AND 'a.c' LIKE 'a.c' AND 'abc' NOT LIKE 'a.c'", True),
        ("color LIKE @pattern AND color LIKE @pattern ESCAPE @mark", True),
        ("color LIKE color AND color LIKE 'r' + '%' AND 'red' LIKE color ESCAPE '!'", True),
        ("nothing LIKE 'r%'", None),
        ("nothing NOT LIKE 'r%'", None),
        ("color LIKE nothing", None),
        ("color LIKE NULL", None),
        ("color LIKE 'r%' ESCAPE NULL", None),
        ("color LIKE color ESCAPE nothing", None),
        ("nothing LIKE color", None),
    ],
)
def test_like(expression: str, expected: bool | None) -> None:
    assert truth(expression, {"@pattern": "r%", "@mark": "!"}) is expected


def reference_pattern(pattern: str, escape: str | None) -> str:
    """Translate a pattern with a table of its pieces."""
    marked = f"{re.escape(escape)}(?P<escaped>.)|" if escape else "(?P<escaped>(?!))|"
    pieces = re.finditer(f"{marked}(?P<any>%)|(?P<one>_)|(?P<plain>.)", pattern, re.DOTALL)
    written = {"any": ".*", "one": "."}
    return "".join(written.get(str(piece.lastgroup)) or re.escape(piece[str(piece.lastgroup)]) for piece in pieces)


@examples(500)
@given(text=st.text("ab%_!\n", max_size=8), pattern=st.text("ab%%_!\n", max_size=8), escape=st.none() | st.just("!"))
def test_like_is_the_regular_expression_it_says(text: str, pattern: str, escape: str | None) -> None:
    assume(escape is None or not re.search(r"(?<!!)(!!)*!\Z", pattern))
    clause = "" if escape is None else f" ESCAPE '{escape}'"
    expected = re.fullmatch(reference_pattern(pattern, escape), text, re.DOTALL) is not None
    view = properties({"text": text, "pattern": pattern})
    assert compile_filter(f"text LIKE '{pattern}'{clause}", {})(view) is expected
    assert compile_filter(f"text LIKE pattern{clause}", {})(view) is expected


def test_a_pattern_full_of_wildcards_does_not_try_all_combinations() -> None:
    view = properties({"text": "ab" * 5000})
    assert compile_filter(f"text LIKE '{'%a_' * 30}c'", {})(view) is False
    assert compile_filter(f"text LIKE '{'%a_' * 30}%'", {})(view) is True


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "column 1: found the end where a value or a condition was expected"),
        ("   ", "column 4: found the end where a value or a condition"),
        ("color", "column 6: found the end where a comparison, IS, IN or LIKE"),
        ("flag AND 1 = 1", "column 6: found 'AND' where a comparison"),
        ("1 = 1 AND flag", "column 15: found the end where a comparison"),
        ("NOT flag", "column 9: found the end where a comparison"),
        ("TRUE", "column 5: found the end where a comparison"),
        ("color =", "column 8: found the end where a value"),
        ("= 'red'", "column 1: found '=' where a value"),
        ("color == 'red'", "column 8: found '=' where a value"),
        ("color = 'red", 'column 9: found "\'" where text that ends with a quotation mark'),
        ("[color = 'red'", r"column 1: found '\[' where a name that ends with a bracket"),
        ('"color = 1', "column 1: found '\"' where a name that ends with a quotation mark"),
        ("[] = 1", "column 1"),
        ("color = red blue", "column 13: found 'blue' where AND, OR or the end"),
        ("1 = 2 = 3", "column 7: found '=' where AND, OR or the end"),
        ("(1 = 1", r"column 7: found the end where '\)'"),
        ("1 = 1)", r"column 6: found '\)' where AND, OR or the end"),
        ("(1 = 1) = TRUE", "column 9: found '='"),
        ("(1 = 1) + 1 = 2", r"column 1: found '\(' where a value"),
        ("1 = (1 = 1)", r"column 5: found '\(' where a value"),
        ("-(1 = 1) = 1", r"column 2: found '\(' where a value"),
        ("1 IN ((1 = 1))", r"column 7: found '\(' where a value"),
        ("color IS 5", "column 10: found '5' where 'NULL'"),
        ("color IS NOT", "found the end where 'NULL'"),
        ("color NOT = 1", "column 11: found '=' where IN or LIKE"),
        ("color IN ()", r"column 11: found '\)' where a value"),
        ("color IN 'red'", r"column 10: found ''red'' where '\('"),
        ("color IN ('red' 'blue')", r"column 17: found ''blue'' where '\)'"),
        ("color LIKE", "found the end where a value"),
        ("color LIKE 5", "column 12: found '5' where text"),
        ("color LIKE 'r%' ESCAPE 5", "column 24: found '5' where text"),
        ("color LIKE 'r%' ESCAPE '!!'", "one character"),
        ("color LIKE 'r!' ESCAPE '!'", "ends with its escape"),
        ("EXISTS(5)", "column 8: found '5' where the name of a property"),
        ("EXISTS color", r"found 'color' where '\('"),
        ("EXISTS('color')", "where the name of a property"),
        ("message.color = 1", "column 1: found 'message' where sys or user in front of the dot"),
        ("user.5 = 1", "column 5: found '.5'"),
        ("user. = 1", "column 7: found '=' where the name of a property"),
        ("and = 1", "column 1: found 'and' where a value"),
        ("lower(color) = 'red'", r"column 1: found 'lower' where newid, property or p"),
        ("newid(1) = 1", r"column 7: found '1' where '\)'"),
        ("p() = 1", r"column 3: found '\)' where a value"),
        ("12abc = 1", "column 3: found 'a' where the end of a number"),
        ("0x10 = 16", "column 2: found 'x' where the end of a number"),
        ("9223372036854775808 > 1", "column 1: found 9223372036854775808 where a number of 64 bits"),
        ("1e999 > 1", "where a number of 64 bits"),
        ("_color = 1", "column 1: found '_' where a name, a value or an operator"),
        ("color½ = 1", "column 6: found '½' where a letter, a digit or an underscore"),
        ("color ~ 1", "column 7: found '~'"),
        ("color = 'red'; size = 3", "column 14: found ';' where AND, OR or the end"),
        ("color = @missing", "column 9: found '@missing' where a parameter that has a value"),
        ("SET color = 'red'", "column 1: found 'SET' where a value"),
        ("color = 'red'\n  AND\n  size is", "line 3, column 10: found the end where 'NULL'"),
    ],
)
def test_an_invalid_filter_is_refused_with_line_and_column(expression: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"SQL filter.*{message}"):
        compile_filter(expression, {})


def test_the_length_of_a_filter_is_limited() -> None:
    longest = "color = '" + "x" * (1024 - 10) + "'"
    assert truth(longest) is False
    with pytest.raises(InvalidArgument, match="may have 1024 characters, this one has 1025"):
        compile_filter(longest + " ", {})


@pytest.mark.parametrize("deep", ["(" * 1000, "NOT " * 250, "-" * 1000, "a = " + "(" * 1000, "-(" * 500])
def test_nesting_is_limited(deep: str) -> None:
    with pytest.raises(InvalidArgument, match="no more than 32 levels"):
        compile_filter(deep, {})
    assert truth("(" * 32 + "1 = 1" + ")" * 32) is True
    assert truth("NOT " * 32 + "1 = 1") is True


def test_long_chains_are_not_nesting() -> None:
    assert truth("1" + "+1" * 200 + " = 201") is True
    assert truth(" OR ".join(["1=0"] * 120 + ["1=1"])) is True
    assert truth(" AND ".join(["1=1"] * 110)) is True
    assert truth(" AND ".join(["(NOT -1=(1))"] * 60)) is True


WORDS = """AND OR NOT IS NULL IN LIKE ESCAPE EXISTS TRUE FALSE SET REMOVE = <> != < <= > >= + - * / % ( ) , ; .
sys user color [a b] "c" 'text' 'a%' 1 2.5 1e3 @p @q newid() p('color') property ' [ "
""".split()


@examples(200)
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join))
def test_arbitrary_text_is_compiled_or_refused(text: str) -> None:
    for compiler in (compile_filter, compile_action):
        try:
            compiled = compiler(text, {"p": 1})
        except InvalidArgument as error:
            assert error.description  # noqa: PT017 - compiling is allowed to succeed
            continue
        for run in compiled if isinstance(compiled, list) else [compiled]:
            try:
                assert run(MESSAGE) is None or isinstance(run(MESSAGE), bool | bytes)
            except FilterError as error:
                assert error.description  # noqa: PT017


# --------------------------------------------------------------------------- generated expressions

# An expression is a tuple: what it is, then its parts.
Tree = tuple[Any, ...]
NAMES = ["color", "size", "half", "flag", "nothing", "empty"]
LEVELS = {"or": 1, "and": 2, "not": 3, "compare": 4, "null": 4, "in": 4, "add": 5, "multiply": 6, "minus": 7}
HALF = Fraction(1, 2)


class Impossible(Exception):
    """The reference cannot compute this either."""


literals = st.one_of(
    st.integers(0, 9),
    st.integers(0, 2**63 - 1),
    st.sampled_from([0.0, 0.5, 2.0, 1.5]),
    st.sampled_from(["", "red", "a'b"]),
    st.booleans(),
    st.none(),
).map(lambda value: ("literal", value))
values: st.SearchStrategy[Tree] = st.recursive(
    literals | st.sampled_from(NAMES).map(lambda name: ("property", name)),
    lambda inner: st.one_of(
        st.tuples(st.just("add"), st.sampled_from("+-"), inner, inner),
        st.tuples(st.just("multiply"), st.sampled_from("*/%"), inner, inner),
        st.tuples(st.just("minus"), inner),
    ),
    max_leaves=5,
)
conditions: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(
        st.tuples(st.just("compare"), st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]), values, values),
        st.tuples(st.just("null"), values, st.booleans()),
        st.tuples(st.just("in"), values, st.booleans(), st.lists(values, min_size=1, max_size=3)),
        st.tuples(st.just("exists"), st.sampled_from(NAMES)),
    ),
    lambda inner: st.one_of(
        st.tuples(st.just("and"), inner, inner),
        st.tuples(st.just("or"), inner, inner),
        st.tuples(st.just("not"), inner),
    ),
    max_leaves=5,
)


def written(tree: Tree, level: int = 0) -> str:
    """Write a tree as SQL, in parentheses only where its surroundings bind tighter."""
    text = _written(tree, LEVELS.get(tree[0], 9))
    return f"({text})" if LEVELS.get(tree[0], 9) < level else text


def _written(tree: Tree, own: int) -> str:
    match tree:
        case ("literal", str(value)):
            return "'" + value.replace("'", "''") + "'"
        case ("literal", None):
            return "null"
        case ("literal", value):
            return str(value)
        case ("property", name):
            return str(name)
        case ("and" | "or" as word, left, right):
            return f"{written(left, own)} {word.upper()} {written(right, own + 1)}"
        case ("not", inner):
            return f"not {written(inner, own)}"
        case ("minus", inner):
            return f"-{written(inner, own)}"
        case ("null", value, negated):
            return f"{written(value, 5)} IS {'NOT ' * negated}NULL"
        case ("in", value, negated, items):
            return f"{written(value, 5)} {'NOT ' * negated}IN ({', '.join(map(written, items))})"
        case ("exists", name):
            return f"exists({name})"
        case (_, symbol, left, right):
            return f"{written(left, own)} {symbol} {written(right, own + 1)}"
    raise AssertionError(tree)


def reference_value(tree: Tree) -> Any:
    match tree:
        case ("literal", value):
            return value
        case ("property", name):
            return USER.get(name)
        case ("minus", inner):
            value = reference_value(inner)
            if isinstance(value, bool | str):
                raise Impossible
            return None if value is None else ctypes.c_int64(-value).value if isinstance(value, int) else -value
        case (_, symbol, left, right):
            return reference_arithmetic(symbol, reference_value(left), reference_value(right))
    raise AssertionError(tree)


def reference_arithmetic(symbol: str, left: Any, right: Any) -> Any:
    if None in (left, right):
        return None
    if symbol == "+" and isinstance(left, str) | isinstance(right, str):
        return "".join(re.sub(r"\.0\Z", "", f"{side}") for side in (left, right))
    if isinstance(left, bool | str) or isinstance(right, bool | str):
        raise Impossible
    if isinstance(left, int) and isinstance(right, int):
        if right == 0 and symbol in "/%":
            raise Impossible
        quotient = int(Fraction(left, right or 1))  # int() cuts towards zero
        results = {"+": left + right, "-": left - right, "*": left * right, "/": quotient}
        return ctypes.c_int64(results.get(symbol, left - right * quotient)).value
    return reference_real(symbol, float(left), float(right))


def reference_real(symbol: str, left: float, right: float) -> float:
    if symbol == "%":
        return math.fmod(left, right) if right and math.isfinite(left) else math.nan
    if symbol == "/" and right == 0:
        sign = math.copysign(1, left) * math.copysign(1, right)
        return math.nan if left == 0 or math.isnan(left) else sign * math.inf
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[symbol]


def kind(value: Any) -> str:
    return "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def reference_comparison(symbol: str, left: Any, right: Any) -> Fraction:
    if None in (left, right):
        return HALF
    if kind(left) != kind(right):
        if symbol not in ("=", "<>", "!="):
            raise Impossible
        return Fraction(symbol != "=")
    if kind(left) == "boolean" and symbol not in ("=", "<>", "!="):
        raise Impossible
    if isinstance(left, float) or isinstance(right, float):
        left, right = float(left), float(right)
    signs = {"=": (0,), "<>": (-1, 1, None), "!=": (-1, 1, None), "<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1)}
    order = -1 if left < right else 1 if left > right else 0 if left == right else None
    return Fraction(order in signs[symbol])


def reference_terms(word: str, tree: Tree) -> Iterator[Tree]:
    """Flatten what AND or OR joins, from left to right."""
    if tree[0] == word:
        yield from reference_terms(word, tree[1])
        yield from reference_terms(word, tree[2])
    else:
        yield tree


def reference(tree: Tree) -> Fraction:
    match tree:
        case ("and", *_):
            return reference_until(Fraction(0), map(reference, reference_terms("and", tree)), min)
        case ("or", *_):
            return reference_until(Fraction(1), map(reference, reference_terms("or", tree)), max)
        case ("not", inner):
            return 1 - reference(inner)
        case ("null", value, negated):
            return Fraction((reference_value(value) is None) != negated)
        case ("exists", name):
            return Fraction(name in USER)
        case ("in", value, negated, items):
            left = reference_value(value)
            best = HALF if left is None else max(reference_comparison("=", left, reference_value(i)) for i in items)
            return 1 - best if negated else best
        case ("compare", symbol, left, right):
            return reference_comparison(symbol, reference_value(left), reference_value(right))
    raise AssertionError(tree)


def reference_until(decided: Fraction, terms: Iterator[Fraction], choose: Any) -> Fraction:
    result = 1 - decided
    for term in terms:
        result = choose(result, term)
        if result == decided:
            break
    return result


@examples(200)
@given(conditions)
def test_expressions_mean_what_the_reference_says(tree: Tree) -> None:
    expression = written(tree)
    assume(len(expression) <= 1024)
    condition = compile_filter(expression, {})
    try:
        expected = {Fraction(0): False, HALF: None, Fraction(1): True}[reference(tree)]
    except Impossible:
        with pytest.raises(FilterError):
            condition(MESSAGE)
    else:
        assert condition(MESSAGE) is expected, expression
