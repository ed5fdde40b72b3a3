"""Rights under odd names: two different ones never meet in one key, one path or one rule."""

import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.indexer.sources import Source, Sources, fault_of_path
from shared.access.callers import Callers
from shared.access.scope import TenantScope
from shared.answer_cache import CachePartition, answer_key
from shared.budget.tenant import _keys as budget_keys
from shared.contracts.ids import escaped, request_id
from shared.vectors.port import stable_id
from tests.support.builders import a_request

SEPARATORS = [
    "",
    ",",
    "/",
    ":",
    "{",
    "}",
    "}{",
    "%",
    '"',
    "\\",
    "\n",
    "\0",
    " ",
    "a",
    "b",
    "\u0435",
    "e\u0301",
    "\u00e9",
    "\ud800",
]
odd = st.lists(st.sampled_from(SEPARATORS), max_size=5).map("".join) | st.text(max_size=8) | st.just("x" * 5000)
named = odd.filter(bool)
groups = st.frozensets(odd, max_size=4)


@given(groups, groups)
@example(frozenset({"employees,managers"}), frozenset({"employees", "managers"}))
@example(frozenset(), frozenset({""}))
@example(frozenset({'a", "b'}), frozenset({"a", "b"}))
def test_callers_share_a_class_only_with_the_same_groups(one: frozenset[str], other: frozenset[str]) -> None:
    classes = [TenantScope("t", each).acl_class() for each in (one, other)]
    assert (classes[0] == classes[1]) == (one == other)


@given(st.tuples(named, groups, odd, odd), st.tuples(named, groups, odd, odd))
def test_answers_of_different_rights_have_different_keys(one: Any, other: Any) -> None:
    def key(tenant: str, groups: frozenset[str], use_case: str, version: str) -> str:
        scope = {"tenant": tenant, "acl_class": TenantScope(tenant, groups).acl_class()}
        return answer_key("s", use_case=use_case, version=version, question="How?", turns=(), **scope)

    assert (key(*one) == key(*other)) == (one == other)


HASH_TAG = re.compile(r"ragbus:\{([^{}]+)\}:")
places = st.tuples(odd, odd, st.lists(odd, min_size=1, max_size=1))


@given(places, places)
@example(("a/b", "c", ["minimum"]), ("a", "b/c", ["minimum"]))
@example(("t/c}:uses:{q", "c", ["minimum"]), ("t", "c", ["minimum"]))
def test_a_tenants_part_of_the_cache_is_its_own_and_in_one_slot(one: Any, other: Any) -> None:
    keys = [CachePartition(tenant, collection).key("uses", *rest) for tenant, collection, rest in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    tags = [match[1] for match in map(HASH_TAG.match, keys) if match]
    assert len(tags) == 2
    assert (tags[0] == tags[1]) == (one[:2] == other[:2])


@given(odd, odd, st.sampled_from(["r1", "r2"]), st.sampled_from(["r1", "r2"]))
def test_a_tenants_budget_is_its_own_and_in_one_slot(one: str, other: str, first: str, second: str) -> None:
    keys = budget_keys(a_request(tenant=one, request_id=first))
    others = budget_keys(a_request(tenant=other, request_id=second))
    assert (keys[:3] == others[:3]) == (one == other)
    assert (keys[3] == others[3]) == ((one, first) == (other, second))
    assert set(keys).isdisjoint(others) or one == other
    tags = [match[1] for match in map(HASH_TAG.match, keys) if match]
    assert tags == [escaped(one)] * 4


@given(odd, odd)
def test_every_name_has_an_escaped_name_of_its_own(one: str, other: str) -> None:
    assert (escaped(one) == escaped(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", escaped(one))


@given(odd, odd, odd, odd)
def test_an_idempotency_key_is_never_a_message_id(tenant: str, caller: str, key: str, message_id: str) -> None:
    over_http = request_id(tenant, caller, f"http/{key}", "http")
    for named in (f"http/{key}", key, message_id, f"{key}http"):
        assert over_http != request_id(tenant, caller, named)


@given(st.tuples(odd, odd, odd), st.tuples(odd, odd, odd))
def test_documents_have_ids_of_their_own(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    try:
        assert (stable_id(*one) == stable_id(*other)) == (one == other)
    except UnicodeEncodeError:
        assert "\ud800" in "".join((*one, *other))  # such a path is refused before it comes here


# --------------------------------------------------------------------------- paths and rules


def source(prefix: str, *groups: str, **more: Any) -> Source:
    return Source(container="docs", prefix=prefix, tenant="t", collection="c", groups=groups, **more)


EMPLOYEES, HR, MANAGERS = source("", "everybody"), source("hr/", "employees"), source("hr/S\u00e9cret/", "managers")
SOURCES = Sources(sources=(EMPLOYEES, HR, MANAGERS))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hr/S\u00e9cret/x.md", MANAGERS),
        ("hr/S\u00e9cret/deep/x y.md", MANAGERS),
        ("hr/x.md", HR),
        ("hr/S\u00e9cretary/x.md", HR),
        ("hrx/x.md", EMPLOYEES),
        ("hr", EMPLOYEES),
        ("a%2Fb/%2e%2e/x.md", EMPLOYEES),
        ("hr/S\u00e9cret", HR),
    ],
)
def test_the_source_with_the_longest_prefix_applies(path: str, expected: Source) -> None:
    assert SOURCES.of("docs", path) is expected
    assert SOURCES.of("other", path) is None


spellings = st.sampled_from(["/", "//", "/./", "/../hr/", "\\", "\\/", "/\0", "/\n"])


@given(spellings, spellings, st.sampled_from(["NFC", "NFD"]), st.sampled_from([str, str.lower, str.upper, str.title]))
@example("//", "/", "NFC", str)
@example("/", "/", "NFD", str)
@example("/", "/", "NFC", str.upper)
def test_no_spelling_of_a_path_gets_a_wider_rule(first: str, second: str, form: Any, case: Any) -> None:
    spelled = unicodedata.normalize(form, case(f"hr{first}S\u00e9cret{second}x.md"))
    found = SOURCES.of("docs", spelled)
    assert found is None or (found is MANAGERS and spelled.startswith(MANAGERS.prefix))


@given(st.lists(st.sampled_from(["a", "..", ".", "", "\\", "b c", "\u00e9", "%2F", "\x7f"]), min_size=1, max_size=6))
def test_a_path_has_one_spelling(steps: list[str]) -> None:
    path = "/".join(steps)
    regular = all(step not in ("", ".", "..") and "\\" not in step and "\x7f" not in step for step in steps)
    assert (fault_of_path(path) is None) == regular


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("hr", "write 'hr/'"),
        ("hr/2026-", "write 'hr/2026-/'"),
        ("hr//secret/", "empty step"),
        ("hr//", "empty step"),
        ("/hr/", "empty step"),
        ("/", "empty"),
        ("hr/../x/", "'..'"),
        ("hr\\secret/", "backslash"),
        ("hr\n/", "control"),
    ],
)
def test_a_prefix_that_is_not_a_folder_is_refused_with_the_correction(prefix: str, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        source(prefix, "g")


@pytest.mark.parametrize("other", ["hr/", "HR/", "Hr/"])
def test_a_folder_has_one_rule(other: str) -> None:
    with pytest.raises(ValidationError, match="two sources for the same folder"):
        Sources(sources=(HR, source(other, "managers")))
    Sources(sources=(HR, Source(container="else", prefix=other, tenant="t", collection="c", groups=("managers",))))


@pytest.mark.parametrize("change", [{"groups": ("",)}, {"groups": ()}, {"tenant": ""}, {"collection": "a/b"}])
def test_a_source_without_a_name_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate({**HR.model_dump(), **change})


# --------------------------------------------------------------------------- callers


def callers(*queues: tuple[str, str]) -> Callers:
    listed = [
        {"name": f"c{number}", "tenant": "t", "groups": ["g"], "queue": queue, "reply_queues": [replies]}
        for number, (queue, replies) in enumerate(queues)
    ]
    return Callers.model_validate({"tenants": {"t": {"tokens_per_minute": 1}}, "callers": listed})


@pytest.mark.parametrize(
    "queues",
    [
        [("ask", "answers"), ("Ask", "other")],
        [("ask", "answers"), ("other", "ANSWERS")],
        [("ask", "answers"), ("other", "ask")],
        [("ask", "Ask")],
        [("Retrieve", "answers")],
        [("ask", "Dead")],
        [("ask", "answers/$DeadLetterQueue")],
        [("ask\n", "answers")],
        [("", "answers"), ("x y", "z")],
        [("\u0430sk", "answers")],
    ],
)
def test_an_ingress_queue_has_one_caller_in_any_case(queues: list[tuple[str, str]]) -> None:
    with pytest.raises(ValidationError):
        callers(*queues)


def test_ordinary_queue_names_are_accepted() -> None:
    assert [*callers(("ask", "answers"), ("apps/hr.v2_x-1", "apps/hr/replies")).ingresses()] == [
        "ask",
        "apps/hr.v2_x-1",
    ]


def test_the_class_is_readable_json() -> None:
    assert json.loads(TenantScope("t", frozenset({"b", "a,\u00e9"})).acl_class()) == ["a,\u00e9", "b"]
