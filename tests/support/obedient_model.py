"""A model that does whatever any text tells it to: it is given its reply, and knows its own prompt.

It writes what a model without any resistance would, in every spelling: its system prompt, the secret word in it, the
digits of the marks, markup, claims with forged marks.
"""

import base64
import codecs
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from services.generator.breakers import DeploymentBreakers
from services.generator.call_times import CallTimes
from services.generator.calls import ModelCalls
from services.generator.chat import Chat
from services.generator.handler import Generator
from shared.access.use_cases import UseCase
from shared.answer_cache import AnswerCache
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import RequestOutcome
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.pacing.pacing import Pacing
from shared.redis import FailFastRedis
from shared.telemetry.metrics import make
from tests.support.budget import a_budget
from tests.support.builders import NOW
from tests.support.odd_provider import Answer, OddProvider, whole

Answers = Callable[[GenerateAnswer], Awaitable[RequestOutcome]]

CANARY = "KESTREL-4471-QUARTZ"
GOOD = "New employees receive 21 days of annual leave per year [1]."

_MORSE = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz0123456789",
        ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
        "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----.".split(),
        strict=True,
    )
)
SPELLINGS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
        "rot13": lambda text: codecs.encode(text, "rot13"),
        "hex": lambda text: text.encode().hex(),
        "leet": lambda text: text.translate(str.maketrans("aeiostAEIOST", "431057431057")),
        "morse": lambda text: " ".join(_MORSE.get(letter, "/") for letter in text.casefold()) + " ",
        "url": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
        "html": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
        "spaced": lambda text: " ".join(text),
        "reversed": lambda text: text[::-1],
        "lines": lambda text: "\n".join(text),
        "zero width": lambda text: "\u200b\u2066".join(text),
        "tags": lambda text: "".join(chr(0xE0000 + ord(letter)) for letter in text),
        "variation": lambda text: "a" + "".join(chr(0xE0100 + ord(letter)) for letter in text),
    }
)


def obeying(reply: str) -> Callable[[dict[str, Any]], Answer]:
    """Answers each call with `reply`, its placeholders filled from the call's own messages."""

    def answer(call: dict[str, Any]) -> Answer:
        system, user = call["messages"][0]["content"], call["messages"][-1]["content"]
        known = {"system": system, "canary": CANARY, "question": user.rpartition("Question: ")[2], "good": GOOD}
        spelt = {
            f"{name}_{spelling.replace(' ', '_')}": write(text)
            for name, text in known.items()
            for spelling, write in SPELLINGS.items()
        }
        nonce = re.findall(r"\[\[end 1 ([0-9a-f]{8})\]\]", user)[0]
        return whole(reply.format_map({**known, **spelt, "nonce": nonce}))

    return answer


@asynccontextmanager
async def obedient_generator(
    redis: FailFastRedis, provider: OddProvider, use_case: UseCase, tokens_per_minute: int = 1_000_000_000
) -> AsyncIterator[Answers]:
    """The real generator, whose model is `provider`: tasks in, outcomes out."""
    deployment = Deployment.model_validate(
        {"name": "small", "provider": "compatible", "endpoint": provider.url, "model": "m", "region": "westeurope",
         "context_window": 4000}
    )  # fmt: skip
    ledger, budget = Ledger(redis), a_budget(redis, tokens_per_minute)
    chat = Chat(timedelta(seconds=300), make())
    generator = Generator(
        use_cases={use_case.name: use_case},
        deployments=[deployment],
        calls=ModelCalls(
            model=chat,
            ledger=ledger,
            budget=budget,
            call_times=CallTimes(),
            breakers=DeploymentBreakers(redis, ["small"]),
            pacing=Pacing(redis),
            clock=lambda: NOW,
        ),
        ledger=ledger,
        budget=budget,
        cache=AnswerCache(redis),
        clock=lambda: NOW,
    )

    async def answered(task: GenerateAnswer) -> RequestOutcome:
        [envelope] = await generator.handle(task)
        assert isinstance(envelope.message, RequestOutcome)
        return envelope.message

    yield answered
    await chat.close()
