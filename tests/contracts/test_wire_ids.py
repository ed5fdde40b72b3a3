"""Laws of the ids: no two requests share one, no two copies of a message do, and the broker takes them all."""

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.envelope import at_deadline
from shared.contracts.ids import MAX_ID, ask_token, digest, escaped, replay_run, request_id, retry_id, stage_id
from shared.contracts.queues import CORE
from tests.support.builders import NOW, a_request

# Anything a caller may send, separators of ours among them.
names = st.text(st.characters() | st.sampled_from("/|:#\x00rp1"), max_size=150)
triples = st.tuples(names, names, names)
STAGES = ("ask", "reply", "deadline", *(queue.name for queue in CORE))


def test_a_deadline_that_was_moved_has_a_sentinel_of_its_own() -> None:
    """Under one id the broker would drop the second, and nothing would wake the gateway at the later deadline."""
    first, later = a_request(), a_request(answer_by=NOW + timedelta(seconds=90))
    assert at_deadline(first).message_id == at_deadline(a_request()).message_id
    assert at_deadline(first).message_id != at_deadline(later).message_id


@given(triples, triples)
def test_different_requests_have_different_ids(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (request_id(*one) == request_id(*other)) == (one == other)


@given(st.text(st.sampled_from("ab/"), max_size=8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_no_caller_reaches_anothers_request_by_moving_a_boundary(
    text: str, first: int, second: int, third: int
) -> None:
    """`ab` + `c` is not `a` + `bc`: the same letters, divided elsewhere, are another caller."""

    def cut(at: int, then: int) -> tuple[str, str, str]:
        low, high = sorted((at, then))
        return text[:low], text[low:high], text[high:]

    one, other = cut(first, second), cut(first, third)
    assert (request_id(*one) == request_id(*other)) == (one == other)


@given(triples, st.sampled_from(STAGES), st.integers(1, 10**9), st.integers(2, 10**6))
def test_every_id_is_short_enough_for_the_broker(who: tuple[str, str, str], stage: str, run: int, attempt: int) -> None:
    base = stage_id(request_id(*who), stage, replay_run(run))
    sequence_number = 2**63 - 1
    handed_back = f"{retry_id(base, attempt)}.{sequence_number}"
    assert len(handed_back) <= MAX_ID


@given(triples)
def test_no_two_copies_of_a_request_share_an_id(who: tuple[str, str, str]) -> None:
    """A duplicate-detecting queue swallows the second of two, silently."""
    request = request_id(*who)
    runs = ["", *map(replay_run, range(1, 4))]
    copies = [
        retry_id(stage_id(request, stage, run), attempt) if attempt > 1 else stage_id(request, stage, run)
        for stage, run, attempt in itertools.product(STAGES, runs, range(1, 9))
    ]
    assert len(copies) == len(set(copies))


@given(triples, st.sampled_from(STAGES), st.integers(2, 50), st.integers(2, 50))
def test_a_retry_of_a_retry_builds_on_the_first_id(
    who: tuple[str, str, str], stage: str, earlier: int, attempt: int
) -> None:
    base = stage_id(request_id(*who), stage)
    assert retry_id(retry_id(base, earlier), attempt) == retry_id(base, attempt)


@given(triples)
def test_the_same_message_is_the_same_request(who: tuple[str, str, str]) -> None:
    assert request_id(*who) == request_id(*who)


def test_two_versions_of_the_code_make_the_same_ids() -> None:
    """While one is replaced by the other, a repeat must meet the first ask, and a key its entry."""
    made = {
        digest(): "zltgsqoz566uatsnrb2y5jtwoa",
        digest("ab", "c"): "2ma4ohkspinjvyhb4hs35yjv6u",
        digest("\u00fc\ud800"): "ju325mzewymhic3thgyusto7va",
        request_id("tessolund", "welcome-app", "m1"): "rdnw5bhw4gjv6dapuchifjnz3li",
        request_id("tessolund", "welcome-app", "m1", "http"): "ruhzqjsn55ry4qpqpgqainossou",
        ask_token("s1", 7, b"{}"): "o3apojydi6rhkxqzmt27mtdzny",
        ask_token(None, 7, b"{}"): "m5eonr2ednqwd3enx3avrhocjy",
        stage_id("r1", "retrieve"): "r1/retrieve",
        stage_id("r1", "retrieve", "p2"): "r1/retrieve/p2",
        retry_id("r2/retrieve", 2): "r2/retrieve/r1",
        retry_id("r3/retrieve/r0.17", 2): "r3/retrieve/r1",
        escaped("a/b{c}:\u00fc \ud800~_.-"): "a%2Fb%7Bc%7D%3A%C3%BC%20%ED%A0%80~_.-",
        escaped(""): "%",
    }
    assert [*made] == [*made.values()]


@given(st.lists(st.tuples(st.none() | names, st.integers(0, 2**63), st.binary()), min_size=2, max_size=2, unique=True))
def test_each_sending_of_an_ask_has_a_token_of_its_own(asks: list[tuple[str | None, int, bytes]]) -> None:
    """Except that no reply session and an empty one are the same."""
    one, other = (((session or ""), *rest) for session, *rest in asks)
    assert (ask_token(*asks[0]) == ask_token(*asks[1])) == (one == other)


@pytest.mark.parametrize(
    "other", [("s2", 7, b"{}"), ("s1", 8, b"{}"), ("s1", 7, b"{ }")], ids=["its session", "its place", "its body"]
)
def test_a_token_changes_with_all_that_it_is_made_of(other: tuple[str, int, bytes]) -> None:
    assert ask_token("s1", 7, b"{}") != ask_token(*other)
