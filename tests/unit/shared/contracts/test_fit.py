"""An outcome is never larger than what can be sent, whatever is in it."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from shared.contracts.fit import LARGEST_MESSAGE, LARGEST_OUTCOME, MARK, clipped, fitted, fitted_body
from shared.contracts.ids import MAX_ID
from shared.contracts.outcome import Citation, Code, ModelCall, Outcome, Plan, RequestOutcome, Span, charged, ending
from tests.support.builders import NOW, a_request

SMALL = 4_000
# Characters of one to six bytes in JSON, and marks of citations.
PIECES = st.sampled_from(["a", "é", "漢", "🙂", "\x01", '"', "\\", "\n", " [1]", " [2]", "[1, 2]", "word "])
TEXTS = st.lists(PIECES, max_size=60).map("".join)
MANY = st.tuples(TEXTS, st.integers(1, 100)).map(lambda drawn: drawn[0] * drawn[1])


def a_citation(marker: int, words: str, path: str = "leave.md") -> Citation:
    return Citation(
        marker=marker, path=path, version=1, title=words, section=words, start=0, end=9, quote=words, score=0.5
    )


@st.composite
def answers(draw: st.DrawFn) -> RequestOutcome:
    citations = tuple(a_citation(n + 1, draw(MANY), draw(MANY)[:1024]) for n in range(draw(st.integers(0, 5))))
    plan = Plan(
        deployment="d", model="m", region="r", context_window=1, passages_used=1, passages_offered=1, why=draw(MANY)
    )
    text = draw(MANY)
    return ending(
        a_request(correlation_id=draw(MANY)[:MAX_ID]),
        Outcome.ANSWERED,
        Code.OK,
        draw(MANY),
        text=text,
        unverified=tuple(
            Span(start=at, end=at + 1) for at in range(0, len(text), draw(st.sampled_from([2, 50, 10_000])))
        ),
        citations=citations,
        plan=draw(st.sampled_from([plan, None])),
    )


@settings(max_examples=100)
@given(answers(), st.integers(SMALL, 20_000))
def test_an_outcome_with_any_content_fits(answer: RequestOutcome, most: int) -> None:
    found = fitted(answer, most)
    body = found.encode()
    assert len(body) <= most
    assert RequestOutcome.decode(body) == found
    assert fitted(found, most) == found
    if len(answer.encode()) <= most:
        assert found == answer
    if found.code is not Code.PAYLOAD_TOO_LARGE:
        assert found.code is (Code.TRUNCATED if found.truncated else Code.OK)
        assert bool(found.unverified) is bool(answer.unverified)
        assert all(span.end <= len(found.text) for span in found.unverified)
        assert found.truncated is (found.text != answer.text)
        assert {citation.marker for citation in found.citations} <= {citation.marker for citation in answer.citations}
        if found.truncated:
            assert all(f"[{citation.marker}]" in found.text for citation in found.citations)
    else:
        assert (found.outcome, found.code, found.text) == (Outcome.FAILED, Code.PAYLOAD_TOO_LARGE, "")


@given(TEXTS, st.integers(0, 400))
def test_a_text_is_cut_between_characters_by_its_bytes_in_json(text: str, most: int) -> None:
    kept = clipped(text, most)
    assert text.startswith(kept)
    assert len(to_json(kept)) - 2 <= most
    if kept != text:
        assert len(to_json(text[: len(kept) + 1])) - 2 > most


def test_the_end_of_a_long_text_goes_first_and_its_citations_with_it() -> None:
    text = "First [1]. " + "x" * LARGEST_OUTCOME + " last [2]."
    found = fitted(an_answer(text, a_citation(1, "quoted"), a_citation(2, "quoted")))
    assert (found.outcome, found.truncated) == (Outcome.ANSWERED, True)
    assert found.text.endswith("x" + MARK)
    assert [citation.marker for citation in found.citations] == [1]
    assert found.citations[0].quote == "quoted"
    assert found.message


def test_a_marker_is_not_cut_in_half() -> None:
    answer = an_answer("a [1] " + "word [1] [12] " * 400, a_citation(1, "q"))
    for most in range(SMALL, SMALL + 40):
        found = fitted(answer, most)
        assert found.truncated
        assert re.search(r"\[[\d\s,]*$", found.text.removesuffix(MARK)) is None


@pytest.mark.parametrize("length", [10, 2 * LARGEST_OUTCOME])
def test_the_body_is_that_of_the_outcome_that_fits(length: int) -> None:
    answer = ending(a_request(), Outcome.ANSWERED, Code.OK, text="x" * length)
    found, body = fitted_body(answer)
    assert (found, body) == (fitted(answer), fitted(answer).encode())
    assert (found is answer) is (length == 10)


def test_long_quotes_are_cut_and_the_text_is_whole() -> None:
    found = fitted(an_answer("Said [1] [2].", a_citation(1, "q" * 200_000), a_citation(2, "q" * 200_000)))
    assert (found.text, found.truncated) == ("Said [1] [2].", False)
    assert all(1_000 < len(citation.quote) < 40_000 for citation in found.citations)
    assert all(citation.quote.endswith(MARK) for citation in found.citations)


def test_an_answer_that_would_lose_all_citations_fails() -> None:
    found = fitted(an_answer("x" * LARGEST_OUTCOME + " [1].", a_citation(1, "q")))
    assert (found.outcome, found.code) == (Outcome.FAILED, Code.PAYLOAD_TOO_LARGE)


def test_an_outcome_that_cannot_be_cut_fails_and_keeps_its_cost() -> None:
    answer = an_answer("Said [1].", a_citation(1, "q", path="p" * LARGEST_MESSAGE))
    answer = answer.model_copy(update={"trace_id": "t", "finished_at": NOW, "correlation_id": "c9", "run": "p2"})
    answer = charged(answer, [ModelCall(deployment="small", prompt_tokens=1_000, cost=0.001)])
    found = fitted(answer)
    assert (found.outcome, found.code, found.retryable) == (Outcome.FAILED, Code.PAYLOAD_TOO_LARGE, False)
    assert (found.correlation_id, found.trace_id, found.finished_at) == ("c9", "t", NOW)
    assert (found.usage, found.cost, found.calls) == (answer.usage, answer.cost, answer.calls)
    assert (found.use_case, found.run, found.accepted_at) == ("onboarding", "p2", answer.accepted_at)
    assert answer.accepted_at is not None
    assert found.message


def test_long_words_beside_the_text_are_cut_and_the_rest_of_them_is_kept() -> None:
    plan = Plan(
        deployment="small",
        model="m",
        region="r",
        context_window=1,
        passages_used=1,
        passages_offered=1,
        why="w" * 99_999,
    )
    answer = an_answer("Said [1].", a_citation(1, "q" * 200_000), message="m" * 99_999, plan=plan)
    found = fitted(answer)
    assert (found.outcome, found.text, found.truncated) == (Outcome.ANSWERED, "Said [1].", False)
    assert found.message.endswith(MARK)
    assert len(found.message) < 5_000
    assert found.plan is not None
    assert found.plan.deployment == "small"
    assert found.plan.why.endswith(MARK)


@pytest.mark.parametrize("character", ["x", "é", "漢", "🙂", "\x01", '"'])
def test_sizes_are_bytes_not_characters(character: str) -> None:
    found = fitted(an_answer(character * 300_000))
    assert LARGEST_OUTCOME - 100 < len(found.encode()) <= LARGEST_OUTCOME


def an_answer(text: str, *citations: Citation, **more: Any) -> RequestOutcome:
    return ending(a_request(), Outcome.ANSWERED, Code.OK, text=text, citations=citations, **more)
