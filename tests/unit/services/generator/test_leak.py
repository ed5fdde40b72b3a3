"""An answer that repeats the system prompt."""

import base64
import codecs
import html
import urllib.parse
from collections.abc import Callable

import pytest

from services.generator.leak import leaks
from services.generator.prompt import RULES

SYSTEM = (
    "You help new colleagues of Tessolund Instruments to find their way. The code word is KESTREL-4471.\n"
    "Answer the question from the passages of the employee handbook below, and from nothing else.\n" + RULES
)
SECRET, RUN = "KESTREL-4471", "new colleagues of Tessolund Instruments to find their way. The code"
MORSE = {"K": "-.-", "E": ".", "S": "...", "T": "-", "R": ".-.", "L": ".-..", "4": "....-", "7": "--...", "1": ".----"}


@pytest.mark.parametrize("sign", [SECRET, RUN])
@pytest.mark.parametrize(
    "spelt",
    [
        str,
        str.lower,
        lambda text: text[::-1],
        lambda text: codecs.encode(text, "rot13"),
        lambda text: codecs.encode(text, "rot13")[::-1],
        lambda text: " ".join(text),
        lambda text: "\n".join(text),
        lambda text: "-*".join(text),
        lambda text: text.replace("e", "3").replace("E", "3").replace("o", "0").replace("t", "7"),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(f"x {text}".encode()).decode().rstrip("="),
        lambda text: text.encode().hex(),
        lambda text: " ".join(f"0x{byte:02x}" for byte in text.encode()),
        lambda text: " ".join(str(byte) for byte in text.encode()) + " ",
        lambda text: " ".join(f"{byte:08b}" for byte in text.encode()),
        lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
        lambda text: "".join(f"&#{ord(letter)};" for letter in text),
        urllib.parse.quote,
        html.escape,
    ],
)
def test_the_prompt_is_recognised_in_every_spelling(sign: str, spelt: Callable[[str], str]) -> None:
    assert leaks(f"Here it is: {spelt(sign)} and that is all.", SYSTEM, str)


def test_a_secret_in_morse_code_is_recognised() -> None:
    assert leaks(" ".join(MORSE[letter] for letter in "KESTREL4471") + " ", SYSTEM, str)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "New employees in Portugal receive 24 days of annual leave per year [1].",
        "The employee handbook of Tessolund Instruments says so [1].",
        "NO_ANSWER",
        "A kestrel weighs 4471 grams",
        "SGVsbG8gd29ybGQsIHRoaXMgaXMgaGFybWxlc3M= %41 &amp; 48656c6c6f20776f726c6421",
    ],
)
def test_an_answer_from_the_documents_is_no_leak(answer: str) -> None:
    assert not leaks(answer, SYSTEM, str)


def test_what_a_document_says_too_is_no_leak() -> None:
    assert leaks(f"The word is {SECRET}.", SYSTEM, lambda: "Other text")
    assert not leaks(f"The word is {SECRET}.", SYSTEM, lambda: f"Our project {SECRET} began")
    assert not leaks(RUN, SYSTEM, lambda: RUN)


@pytest.mark.parametrize(
    ("token", "secret"),
    [("CANARY-8f3a", True), ("ZX-42-Q9", True), ("TOP_SECRET_WORD", True), ("sk1234567890abcdef", True),
     ("IMPORTANT", False), ("three-line", False), ("A4", False), ("2026-03-01", False)],
)  # fmt: skip
def test_words_that_look_like_secrets(token: str, secret: bool) -> None:
    assert leaks(f"It is {token}.", f"Be brief. {token} is yours.", str) is secret


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["a", "ab ", "48 ", "0x48", "%41", "&#65;", ".- ", "SGVsbG8g", "01000001 ", "-"])
def test_a_hostile_text_takes_linear_time(piece: str) -> None:
    leaks(piece * (130_000 // len(piece)), SYSTEM, str)
