"""What is made of a provider that misbehaves: real HTTP, the real SDK, streamed and whole.

Most cases are those of public bug reports; `docs/reference/outcomes.md` says what each fault leads to.
"""

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.generator.chat import Chat
from services.generator.reply import CallTimeout, Cancelled, NoAnswer, Reply
from shared.contracts.outcome import Code
from shared.llm.deployments import Deployment
from shared.llm.errors import Fault, InvalidReply, ModelError
from shared.telemetry.metrics import make
from tests.support.odd_provider import (
    DONE,
    USAGE,
    Answer,
    OddProvider,
    Script,
    body,
    chunk,
    html,
    split,
    status,
    stream,
    usage,
    whole,
)
from tests.support.waiting import until

PROMPT = ({"role": "user", "content": "[[passage 1 ab]]\none two\n[[end 1 ab]]\n\nQuestion: How many?"},)
WITHIN = timedelta(seconds=300)
ONE, STOP = chunk("one "), chunk("two", "stop")
SAID = "one two"


async def never() -> None:
    """The answer is wanted to the end."""
    await until(_no)


async def _no() -> bool:
    return False


class Odd:
    """One provider and one client for all calls of a test."""

    def __init__(self, provider: OddProvider, longest: timedelta = WITHIN) -> None:
        self.provider = provider
        self.chat = Chat(longest, make())

    async def tell(
        self, *answers: Script, streams: bool = True, cancelled: Any = never, **changes: Any
    ) -> Reply | ModelError | NoAnswer | Cancelled:
        """The reply, or the failure, that the provider's `answers` lead to."""
        self.provider.play(*answers)
        given = {"provider": "compatible", "endpoint": self.provider.url, "context_window": 4000, "stream": streams}
        deployment = Deployment.model_validate({"name": "d", "model": "m", "region": "r", **given, **changes})
        try:
            return await self.chat.complete(deployment, PROMPT, answer_tokens=50, within=WITHIN, cancelled=cancelled)
        except (ModelError, NoAnswer, Cancelled) as failure:
            return failure


@pytest.fixture
async def odd() -> AsyncIterator[Odd]:
    async with OddProvider() as provider:
        found = Odd(provider)
        await found.tell(whole(SAID))  # the SDK is imported with the first call
        yield found
        await found.chat.close()


def in_pieces(answer: Answer, size: int = 7) -> Answer:
    return split(answer, size)


def error(message: str, code: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "code": code, **more}}


# -- the same answer, said in many ways

PARTS = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
STREAMS: dict[str, Answer] = {
    "plain": stream(ONE, STOP, usage(), DONE),
    "crlf": stream(ONE, STOP, usage(), DONE, end="\r\n\r\n"),
    "cr": stream(ONE, STOP, usage(), DONE, end="\r\r"),
    "cr in pieces": in_pieces(stream(ONE, STOP, usage(), DONE, end="\r\r"), 1),
    "crlf in pieces": in_pieces(stream(ONE, STOP, usage(), DONE, end="\r\n\r\n"), 1),
    "byte order mark": stream(b"\xef\xbb\xbf", ONE, STOP, usage(), DONE),
    "empty data": stream(b"data:\n\n", ONE, b"data: \n\n", STOP, b"data\n\n", usage(), DONE),
    "null data": stream(b"data: null\n\n", ONE, b"data: null\n\n", STOP, usage(), DONE),
    "an empty text as data": stream(b'data: ""\n\n', ONE, b'data: ""\n\n', STOP, usage(), DONE),
    "more after DONE": stream(ONE, STOP, usage(), DONE, chunk(" three")),
    "the second choice first": stream(chunk("other", "stop", index=1), ONE, STOP, usage(), DONE),
    "comments": stream(b": OPENROUTER PROCESSING\n\n", ONE, b":\n\n", STOP, usage(), DONE),
    "ids and blank lines": stream(b"id: 1\n\n\n\n", ONE, b"\n\nid: 2\nretry: 3\n\n", STOP, usage(), DONE),
    "event names": stream(b"event: message\n", ONE, b"event: message\n", STOP, usage(), DONE),
    "no blank after the colon": stream(f"data:{json.dumps(ONE)}\n\n".encode(), STOP, usage(), DONE),
    "data over lines": stream(
        *(
            "".join(f"data: {line}\n" for line in json.dumps(each, indent=1).splitlines()).encode() + b"\n"
            for each in (ONE, STOP, usage())
        ),
        DONE,
    ),
    "one line end between events": stream(ONE, STOP, usage(), DONE, end="\n"),
    "no blank line at the end": stream(ONE, STOP, usage(), f"data: {DONE}".encode()),
    "nothing after the last event": stream(ONE, STOP, b"data: " + json.dumps(usage()).encode()),
    "no DONE": stream(ONE, STOP, usage()),
    "DONE with words": stream(ONE, STOP, usage(), "[DONE] bye"),
    "no finish reason, but DONE": stream(ONE, chunk("two"), usage(), DONE),
    "finish reason of another kind": stream(ONE, chunk("two", "end_turn"), usage(), DONE),
    "empty finish reasons": stream(chunk("one ", ""), chunk("two", "null"), chunk("", "STOP"), usage(), DONE),
    "parts": stream({"choices": [{"index": 0, "delta": {"content": PARTS}, "finish_reason": "stop"}]}, usage()),
    "content null": stream(
        chunk(None, role="assistant"), {"choices": [{"delta": {"content": None}}]}, ONE, STOP, usage()
    ),
    "filter results first": stream({"choices": [], "prompt_filter_results": [{}]}, ONE, STOP, usage(), DONE),
    "a chunk without delta": stream(ONE, {"choices": [{"index": 0, "content_filter_offsets": {}}]}, STOP, usage()),
    "usage null": stream({**ONE, "usage": None}, {**STOP, "usage": {"prompt_tokens": None}}, usage(), DONE),
    "usage as text": stream(ONE, STOP, usage({"prompt_tokens": "9", "completion_tokens": "3"}), DONE),
    "usage in each chunk": stream({**ONE, "usage": {"prompt_tokens": 9, "completion_tokens": 1}}, STOP, usage(), DONE),
    "two choices": stream(ONE, chunk("other", index=1), chunk("x", "stop", index=1), STOP, usage(), DONE),
    "reasoning beside it": stream(chunk(None, reasoning_content="hm"), chunk(None, reasoning="hm"), ONE, STOP, usage()),
    "a byte that is not UTF-8": stream(
        b'data: {"id": "caf\xe9", "choices": [{"delta": {"content": "one "}}]}\n\n', STOP, usage(), DONE
    ),
    "thinking first": stream(chunk("<thi"), chunk("nk>hm [1]</th"), chunk("ink>\n\n"), ONE, STOP, usage(), DONE),
    "broken after its end": stream(ONE, STOP, usage(), "half a chu"),
    "an error after its end": stream(ONE, STOP, usage(), error("too late")),
    "gzip": replace(
        body(gzip.compress(b"".join(stream(ONE, STOP, usage(), DONE).blocks)), headers={"content-encoding": "gzip"}),
        kind="text/event-stream",
    ),
    "in pieces of a byte": in_pieces(stream(ONE, STOP, usage(), DONE), 1),
    "said to be plain text": replace(stream(ONE, STOP, usage(), DONE), kind="text/plain"),
    "not a stream": whole(SAID),
    "no content type": replace(whole(SAID), kind=""),
}
WHOLE: dict[str, Answer] = {
    "plain": whole(SAID),
    "parts": whole(PARTS),
    "reasoning beside it": whole(SAID, reasoning_content="hm", reasoning="hm"),
    "a part of reasoning": whole([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, *PARTS]),
    "thinking first": whole(f"<think>\nhm [1]\n</think>\n\n{SAID}"),
    "the end of thinking": whole(f"hm [1]\n</think>\n\n{SAID}"),
    "no finish reason": whole(SAID, None),
    "refusal null": whole(SAID, refusal=None),
    "no tools": whole(SAID, tool_calls=[]),
    "unknown fields": body({**json.loads(whole(SAID).blocks[0]), "new": {"a": [1]}, "choices_": []}),
    "two choices": body(
        {
            "choices": [
                {"index": 0, "message": {"content": SAID}, "finish_reason": "stop"},
                {"index": 1, "message": {"content": "other"}, "finish_reason": "stop"},
            ],
            "usage": USAGE,
        }
    ),
    "the second choice first": body(
        {
            "choices": [
                {"index": 1, "message": {"content": "other"}, "finish_reason": "length"},
                {"index": 0, "message": {"content": SAID}, "finish_reason": "stop"},
            ],
            "usage": USAGE,
        }
    ),
    "an index twice": body(
        {"choices": [{"index": 0, "message": {"content": each}, "finish_reason": "stop"} for each in (SAID, "other")],
         "usage": USAGE}
    ),
    "without index": body({"choices": [{"message": {"content": SAID}, "finish_reason": "stop"}], "usage": USAGE}),
    "text plain": replace(whole(SAID), kind="text/plain"),
    "byte order mark": body(b"\xef\xbb\xbf" + whole(SAID).blocks[0]),
    "blanks first": body(b"  \r\n\n" + whole(SAID).blocks[0]),
    "in pieces": in_pieces(whole(SAID)),
    "gzip": body(gzip.compress(whole(SAID).blocks[0]), headers={"content-encoding": "gzip"}),
    "usage as text": whole(SAID, counted={"prompt_tokens": "9", "completion_tokens": 3.0}),
    "a stream": stream(ONE, STOP, usage(), DONE),
}  # fmt: skip


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
async def test_a_complete_answer_is_read_however_it_is_sent(odd: Odd, streams: bool) -> None:
    found = {}
    for name, answer in (STREAMS if streams else WHOLE).items():
        found[name] = await odd.tell(answer, streams=streams), len(odd.provider.asked)
    assert found == dict.fromkeys(found, (Reply(SAID, 9, 3), 1))


# -- no answer, and whose fault it is

FAULTS: list[tuple[str, Answer, Fault, str]] = [
    ("html", html("Sign in"), Fault.DOWN, "an HTML page, 'Sign in'"),
    ("nothing", body(b""), Fault.DOWN, "it is empty"),
    ("plain text", body("upstream connect error"), Fault.DOWN, "upstream connect error"),
    ("choices empty", body({"choices": []}), Fault.DOWN, "no choices"),
    ("choices null", body({"choices": None}), Fault.DOWN, "no choices"),
    ("choices a number", body({"choices": 7}), Fault.DOWN, "not a chat completion"),
    ("content a number", whole(7), Fault.DOWN, "content is int"),
    ("content a list of texts", whole(["one"]), Fault.DOWN, "not a chat completion"),
    ("a list", body("[]"), Fault.DOWN, "not a chat completion"),
    ("half a body", body(b'{"choices": [{"index": 0, "message": {"content": "on'), Fault.DOWN, "not a chat completion"),
    ("brackets", body(b"[" * 200_000), Fault.DOWN, "not a chat completion"),
    ("an error in it", body(error("overloaded")), Fault.DOWN, "overloaded"),
    ("an error as text", body({"error": "model is loading"}), Fault.DOWN, "model is loading"),
    ("an error: too long", body(error("maximum context length is 9 tokens", 400)), Fault.TOO_LONG, "maximum context"),
    ("an error: quota", body(error("You exceeded it", "insufficient_quota")), Fault.CONFIGURATION, "You exceeded it"),
    ("an error: throttled", body(error("slow down", 429)), Fault.THROTTLED, "slow down"),
    ("an error: filter", body(error("no", "content_filter")), Fault.REFUSED, "no"),
    ("vllm's own object", body({"object": "error", "message": "maximum context length is 9 tokens", "code": 400}),
     Fault.TOO_LONG, "maximum context"),
    ("code and msg", body({"code": 1301, "msg": "it failed", "data": None}), Fault.DOWN, "it failed"),
    ("code and message", body({"success": False, "code": 429, "message": "slow down"}), Fault.THROTTLED, "slow down"),
    ("a list of errors", body({"errors": [{"message": "model busy", "code": "busy"}]}), Fault.DOWN, "model busy"),
    ("detail", body({"detail": "Not authenticated", "choices": None}), Fault.DOWN, "Not authenticated"),
    ("only that there is one", body({"error": True, "message": "boom"}), Fault.DOWN, "boom"),
    ("minimax: key", body({"base_resp": {"status_code": 1004, "status_msg": "login fail"}, "choices": None}),
     Fault.CONFIGURATION, "login fail"),
    ("minimax: throttled", body({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}), Fault.THROTTLED,
     "rate limit"),
    ("given up", whole("one", "error"), Fault.DOWN, "gave up"),
    ("refusal", whole(None, refusal="I can't help with that."), Fault.REFUSED, "I can't help with that."),
    ("filtered with text", whole("one", "content_filter"), Fault.REFUSED, "content filter"),
    ("filtered without text", whole("", "content_filter"), Fault.REFUSED, "content filter"),
    ("500", status(500, error("The server had an error")), Fault.DOWN, "The server had an error"),
    ("502 page", html("502 Bad Gateway", 502), Fault.DOWN, "502 Bad Gateway"),
    ("429", status(429, error("slow down", "rate_limit_exceeded")), Fault.THROTTLED, "slow down"),
    ("404", status(404, error("The API deployment does not exist", "DeploymentNotFound")), Fault.CONFIGURATION,
     "The API deployment does not exist"),
    ("401", status(401, error("Incorrect API key provided: sk-abcdefgh12345")), Fault.CONFIGURATION, "key_env"),
    ("413 page", html("413 Request Entity Too Large", 413), Fault.CONFIGURATION, "Request Entity Too Large"),
    ("reset", Answer((b'{"choices": [',), end="reset"), Fault.DOWN, "broke off"),
    ("half a body, closed", Answer((b'{"choices": [',), end="half"), Fault.DOWN, "broke off"),
]  # fmt: skip
IN_STREAM: list[tuple[str, Answer, Fault, str]] = [
    ("an error first", stream(error("maximum context length is 9 tokens", 400), DONE), Fault.TOO_LONG, "maximum"),
    ("an error: throttled", stream(error("slow down", "rate_limit_exceeded")), Fault.THROTTLED, "slow down"),
    ("an error in the middle", stream(ONE, error("overloaded"), DONE), Fault.DOWN, "overloaded"),
    ("an error event", stream(b"event: error\n", {"message": "overloaded"}), Fault.DOWN, "overloaded"),
    ("only DONE", stream(DONE), Fault.DOWN, "without a finish reason"),
    ("only null data", stream(b"data: null\n\n"), Fault.DOWN, "no completion in it"),
    ("DONE before the text", stream(DONE, ONE, STOP), Fault.DOWN, "without a finish reason"),
    ("only comments", stream(b": hello\n\n"), Fault.DOWN, "no completion in it"),
    ("cut", stream(ONE), Fault.DOWN, "without a finish reason"),
    ("reset in the middle", stream(ONE, end="\n\n"), Fault.DOWN, "without a finish reason"),
    ("not JSON", stream(ONE, "{half", DONE), Fault.DOWN, "not a chat completion"),
    ("given up", stream(ONE, chunk("", "abort")), Fault.DOWN, "abort"),
    ("refusal", stream(chunk(None, refusal="I can't "), chunk(None, "stop", refusal="help."), usage()), Fault.REFUSED,
     "I can't help."),
    ("filtered", stream(ONE, chunk("", "content_filter"), usage(), DONE), Fault.REFUSED, "content filter"),
]  # fmt: skip


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
async def test_what_is_no_answer_has_its_fault_and_the_provider_s_words(odd: Odd, streams: bool) -> None:
    found, expected = {}, {}
    for name, answer, fault, word in [*FAULTS, *(IN_STREAM if streams else ())]:
        failure = await odd.tell(answer, streams=streams)
        said = str(failure)
        assert "sk-abcdefgh" not in said
        assert len(said) < 700
        is_there = word if word in said else said
        found[name] = getattr(failure, "fault", failure), is_there, len(odd.provider.asked)
        expected[name] = fault, word, 1
    assert found == expected


async def test_a_failed_call_says_what_it_used(odd: Odd) -> None:
    cases = [
        (stream(ONE), 20),  # broken off: an estimate
        (replace(stream(ONE), end="reset"), 20),
        (stream(ONE, chunk("", "content_filter"), usage(), DONE), 12),
        (stream({**ONE, "usage": USAGE}, error("overloaded")), 12),
        (html("Sign in"), 0),
        (status(500), 0),
        (Answer((whole("words " * 100).blocks[0][:-200],), end="half"), 60),
        (Answer((b'{"choices": [',), end="reset"), 20),
    ]
    for answer, tokens in cases:
        failure = await odd.tell(answer)
        assert isinstance(failure, ModelError)
        assert failure.used.tokens >= tokens
        assert bool(failure.used.tokens) is bool(tokens)


# -- complete, paid, and no answer


THINKING = {"content": "", "reasoning_content": "hm"}
WORDLESS: list[tuple[dict[str, Any], str, Code]] = [
    ({"content": ""}, "stop", Code.EMPTY_ANSWER),
    ({"content": None}, "stop", Code.EMPTY_ANSWER),
    ({"content": " \n"}, "stop", Code.EMPTY_ANSWER),
    ({"content": "", "reasoning_content": ""}, "stop", Code.EMPTY_ANSWER),
    ({"content": "<|endoftext|>"}, "stop", Code.EMPTY_ANSWER),
    ({"content": "\u200b\u2060<|im_end|>\n"}, "stop", Code.EMPTY_ANSWER),
    ({"content": "\u200b\u200b"}, "stop", Code.EMPTY_ANSWER),
    ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "stop", Code.EMPTY_ANSWER),
    ({"content": ""}, "length", Code.REASONING_ONLY),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "stop", Code.REASONING_ONLY),
    (THINKING, "length", Code.REASONING_ONLY),
    ({"content": "<think>hm"}, "length", Code.REASONING_ONLY),
    ({"content": "<think>hm</think>"}, "stop", Code.REASONING_ONLY),
    ({"content": None, "tool_calls": [{"function": {"name": "f"}}]}, "tool_calls", Code.TOOL_CALLED),
    ({"content": None, "function_call": {"name": "f"}}, "function_call", Code.TOOL_CALLED),
    *(
        ({"content": text}, "stop", Code.TOOL_CALLED)
        for text in (
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
            '<think>hm</think><tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}</tool_call><|im_end|>',
            '[TOOL_CALLS][{"name": "f", "arguments": {}}]',
            '[TOOL_CALLS]f[ARGS]{"a": 1}',
            "<function=f>\n<parameter=a>1</parameter>\n</function>",
            '<|python_tag|>{"name": "f", "parameters": {}}',
            "<|tool_call>call:f{a:1}<tool_call|>",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
            '<|START_ACTION|>[{"tool_name": "f"}]<|END_ACTION|>',
            "<｜tool▁calls▁begin｜>f<｜tool▁calls▁end｜>",
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        )
    ),
]


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
async def test_a_reply_without_an_answer_says_what_it_was(odd: Odd, streams: bool) -> None:
    for message, finish, code in WORDLESS:
        choices = [{"index": 0, "delta" if streams else "message": message, "finish_reason": finish}]
        answer = {"choices": choices, "usage": USAGE}
        failure = await odd.tell(stream(answer, DONE) if streams else body(answer), streams=streams)
        assert isinstance(failure, NoAnswer), repr(failure)
        assert (failure.code, failure.used.tokens, len(odd.provider.asked)) == (code, 12, 1)


async def test_text_about_tool_calls_is_an_answer(odd: Odd) -> None:
    for text in (
        "A call is written as <tool_call>{}</tool_call> [1].",
        "<tool_call> is the tag of a call [1].",
        "[TOOL_CALLS] is the token of a call [1].",
        '<tool_call>{"name": "f"}</tool_call>\nThere are two [1].',
    ):
        reply = await odd.tell(whole(text), streams=False)
        assert isinstance(reply, Reply), repr(reply)
        assert reply.text == text


async def test_an_answer_at_its_limit_is_cut_off(odd: Odd) -> None:
    for finish in ("length", "max_tokens", "MAX_TOKENS"):
        reply = await odd.tell(stream(ONE, chunk("two", finish), usage()))
        assert isinstance(reply, Reply)
        assert (reply.text, reply.cut_off) == (SAID, True)


# -- usage that cannot be


ODD_USAGES: list[tuple[dict[str, Any], int | None, int, bool]] = [
    ({"prompt_tokens": 10**9, "completion_tokens": 10**9}, 4000, 50, True),
    ({"prompt_tokens": -5, "completion_tokens": -1}, None, 2, True),
    ({"prompt_tokens": 0, "completion_tokens": 0}, None, 2, True),
    ({"prompt_tokens": "many", "completion_tokens": 3}, None, 3, True),
    ({"prompt_tokens": 9, "completion_tokens": [3]}, 9, 2, True),
    ({"prompt_tokens": True, "completion_tokens": 3}, None, 3, True),
    ({"prompt_tokens": 9}, None, 2, True),
    ({}, None, 2, True),
    ({"prompt_tokens": 9, "completion_tokens": 3}, 9, 3, False),
]


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
async def test_a_usage_that_cannot_be_is_replaced(odd: Odd, streams: bool) -> None:
    for counted, prompt, completion, estimated in ODD_USAGES:
        answer = stream(ONE, STOP, usage(counted), DONE) if streams else whole(SAID, counted=counted)
        reply = await odd.tell(answer, streams=streams)
        assert isinstance(reply, Reply)
        assert (reply.text, reply.estimated, reply.completion_tokens) == (SAID, estimated, completion), counted
        assert reply.prompt_tokens == prompt if prompt is not None else 20 < reply.prompt_tokens < 100


# -- a complete answer in hand is never thrown away


async def test_a_connection_that_stays_open_after_the_end_is_not_waited_for(odd: Odd) -> None:
    for answer in (
        stream(ONE, STOP, usage(), DONE),
        stream(ONE, chunk("two"), usage(), DONE),
        stream(ONE, STOP, usage()),
        stream(ONE, STOP),
    ):
        reply = await odd.tell(replace(answer, end="open"))
        assert isinstance(reply, Reply), repr(reply)
        assert reply.text == SAID
        assert len(odd.provider.asked) == 1
    for end in ("open", "reset", "half"):
        reply = await odd.tell(replace(in_pieces(whole(SAID)), end=end), streams=False)
        assert reply == Reply(SAID, 9, 3), repr(reply)


async def test_a_reset_after_the_end_does_no_harm(odd: Odd) -> None:
    for end in ("reset", "half"):
        reply = await odd.tell(replace(stream(ONE, STOP, usage()), end=end))
        assert isinstance(reply, Reply), repr(reply)
        assert reply.text == SAID


# -- a server that hangs


@pytest.mark.parametrize(
    ("answer", "streams", "limits", "words"),
    [
        (Answer(before=600), True, {"first_token": 1}, "did not begin to answer"),
        (replace(stream(b": hello\n\n"), end="open"), True, {"first_token": 1}, "did not begin to answer"),
        (replace(stream(ONE), end="open"), True, {"between_tokens": 1}, "stopped in the middle"),
        (Answer(before=600), False, {"first_token": 1}, "did not begin to answer"),
        (Answer(before=600), False, {"total": 1}, "had not finished"),
        (Answer((b" ",), end="open"), False, {"total": 1}, "had not finished"),
        (
            replace(stream(*[ONE] * 600), pause=0.1),
            True,
            {"total": 1, "first_token": 60, "between_tokens": 60},
            "had not finished",
        ),
    ],
    ids=["headers", "first token", "between tokens", "whole headers", "whole total", "whole body", "drip"],
)
async def test_a_server_that_hangs_is_given_up(
    odd: Odd, answer: Answer, streams: bool, limits: dict[str, float], words: str
) -> None:
    failure = await odd.tell(answer, streams=streams, timeouts=limits)
    assert isinstance(failure, CallTimeout), repr(failure)
    assert words in str(failure)
    assert failure.used.estimated
    assert failure.used.prompt_tokens > 20
    assert len(odd.provider.asked) <= 1  # it may be given up before the server has read it


async def test_a_slow_server_that_may_take_long_in_all_may_take_long_to_begin() -> None:
    """Half of a call's usual time is too little for a large prompt on a processor without a GPU."""
    async with OddProvider() as provider:
        odd = Odd(provider, longest=timedelta(seconds=1))
        reply = await odd.tell(replace(stream(ONE, STOP), before=1.5), streams=True, timeouts={"total": 600})
        assert isinstance(reply, Reply), repr(reply)
        await odd.chat.close()


# -- a parameter that is refused is learned


async def test_a_parameter_that_is_refused_is_left_out_and_the_call_sent_again(odd: Odd) -> None:
    def strict(asked: dict[str, Any]) -> Answer:
        for name in ("temperature", "stream_options"):
            if name in asked:
                return status(
                    400, error(f"Unsupported parameter: '{name}' is not supported with this model.", param=name)
                )
        return stream(ONE, STOP, usage(), DONE)

    reply = await odd.tell(strict)
    assert isinstance(reply, Reply), repr(reply)
    assert len(odd.provider.asked) == 3
    assert not {"temperature", "stream_options"} & odd.provider.asked[-1].keys()
    await odd.tell(strict)
    assert len(odd.provider.asked) == 1


async def test_a_refusal_that_teaches_nothing_is_not_repeated(odd: Odd) -> None:
    failure = await odd.tell(status(400, error("Unsupported parameter: 'frobnicate' is not supported")))
    assert isinstance(failure, ModelError)
    assert failure.fault is Fault.CONFIGURATION
    assert len(odd.provider.asked) == 1


async def test_an_answer_without_end_is_cut_off(odd: Odd) -> None:
    reply = await odd.tell(stream(*[chunk("words " * 1_000)] * 100, usage(), DONE))
    assert isinstance(reply, Reply)
    assert reply.cut_off
    assert len(reply.text) < 8_000
    assert isinstance(await odd.tell(stream(b"data: " + b"x" * 3_000_000)), InvalidReply)
