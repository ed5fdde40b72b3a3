"""BM25 vectors: what must not change, and what must hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.embeddings.sparse import of_passage, of_question, terms

WORDS = st.lists(st.sampled_from("leave days pay rent visit tram 2026 café".split()), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The holidays, and holiday's end", ["holiday", "holiday", "end"]),
        ("Größe ÄNDERN 1,500 km", ["größe", "ändern", "1", "500", "km"]),
        ("don’t don't", ["don't", "don't"]),
        ("snake_case e-mail", ["snake", "case", "e", "mail"]),
        ("What is it for?", []),
        ("", []),
    ],
)
def test_terms_are_lower_case_stemmed_words_without_stop_words(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_the_index_of_a_term_never_changes() -> None:
    # Stored vectors depend on it: another number here means that every document must be indexed again.
    assert of_question("leave") == {2709293332: 1.0}


def test_a_term_has_the_same_index_in_question_and_passage() -> None:
    assert of_question("holiday").keys() <= of_passage("All holidays are paid.").keys()


@given(WORDS)
def test_more_of_a_term_weighs_more_but_never_beyond_saturation(words: list[str]) -> None:
    once, twice = of_passage(" ".join([*words, "compass"])), of_passage(" ".join([*words, "compass", "compass"]))
    [term] = of_question("compass")
    assert once[term] < twice[term] < 2.2


@given(WORDS)
def test_a_term_weighs_less_in_a_longer_passage(words: list[str]) -> None:
    [term] = of_question("compass")
    assert of_passage("compass " + " ".join(words))[term] < of_passage("compass")[term]


@given(st.text(max_size=300))
def test_any_text_gives_a_vector_that_qdrant_accepts(text: str) -> None:
    for vector in (of_passage(text), of_question(text)):
        assert all(0 <= term < 2**32 and weight > 0 for term, weight in vector.items())
