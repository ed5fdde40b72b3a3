"""Every known misbehaviour of a provider, through the whole system: one outcome, as promised, and nobody else waits.

All of it takes ten minutes on a busy machine: `make test-misbehaving`, with `N=` for a sample.

Each case has a use case and a deployment of its own, so that they can be met side by side.
"""

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus.aio import ServiceBusClient

from local.stack import Stack
from local.stack.stack import EXAMPLE
from tests.support.configuration import configuration
from tests.support.waiting import PATIENCE, until
from tests.system.conftest import LOCK, SETTINGS, App
from tests.system.misbehaviours import LESSONS, PROMISES, WAITED, Case, cases

CASES = list(cases())
# What can only wait for its deadline gets a short one.
SHORT, LONG = timedelta(seconds=12), timedelta(seconds=180)
WELL = "well"
WINDOW = 4000
# The most tokens that can be read of an answer: a token is a byte at least.
LARGEST = 128 * 1024
# Tried on every run of the tests; the others take minutes.
SAMPLE = ("html-200", "ctx-llamacpp", "404-ollama", "think-tags", "done-hang", "usage-huge", "refusal")


@dataclass
class Ended:
    """How a request ended, and what it cost."""

    outcomes: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    """Of its own deployment, as the provider counted them."""
    log: list[str]
    """The generator's lines about it."""

    @property
    def outcome(self) -> dict[str, Any]:
        [outcome] = self.outcomes
        return outcome

    @property
    def end(self) -> str:
        return f"{self.outcome['outcome']}/{self.outcome['code']}"


def chat(name: str, **changes: Any) -> dict[str, Any]:
    """A deployment of the local model."""
    return {
        "name": name,
        "provider": "openai",
        "endpoint": "${RAGBUS_MODEL_ENDPOINT}/v1",
        "key_env": "RAGBUS_MODEL_KEY",
        "model": name,
        "context_window": WINDOW,
        "price": {"input": 0.5, "output": 1.5},
        "stream": False,
        **changes,
    }


def configured(folder: Path) -> Path:
    """A use case and a deployment for each case; a second tenant; a deployment that is well."""
    deployments = [chat(WELL, priority=9)]
    use_cases: dict[str, dict[str, Any]] = {WELL: {"deployments": [WELL]}}
    for case in CASES:
        deployment = chat(case.name, stream=case.stream, priority=1)
        if "hang" in case.fault or case.fault == "drip":
            between = {"between_tokens": 4} if case.stream else {}
            deployment["timeouts"] = {"first_token": 4, "total": 8, **between}
        deployments.append(deployment)
        use_cases[case.name] = {"deployments": [case.name, *([WELL] if case.company == "second" else [])]}
    common = {"retrieval": {"candidates": 6}, "cache": {"ttl": 0}}
    return configuration(
        folder,
        deployments,
        {name: common | own for name, own in use_cases.items()},
        tenants={"tessolund": {"tokens_per_minute": 10**8}, "larkfield": {"tokens_per_minute": 10**8}},
        callers=[
            {
                "name": "partner-app",
                "tenant": "larkfield",
                "queue": "ask-partner",
                "reply_queues": ["answers-partner"],
                "api_keys": [],
            }
        ],
        sources=[
            {
                "container": "handbook",
                "prefix": "partner/",
                "tenant": "larkfield",
                "collection": "handbook",
                "groups": ["employees"],
            }
        ],
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """A stack of its own, whose models misbehave."""
    folder = tmp_path_factory.mktemp("misbehaving")
    documents = folder / "documents"
    (documents / "partner").mkdir(parents=True)
    for copy in (documents, documents / "partner"):
        shutil.copy(EXAMPLE / "handbook" / "remote-work.md", copy)
    async with (
        Stack(
            folder / "stack",
            ports="free",
            config=configured(folder / "config"),
            documents=documents,
            settings=SETTINGS,
            lock=LOCK,
            patience=PATIENCE,
        ) as stack,
        ServiceBusClient.from_connection_string(stack.connection_string) as client,
    ):
        app = App(stack, client)

        async def indexed() -> bool:
            return len(await app.documents()) == 2

        await until(indexed)
        await app.fail(
            *(
                {
                    "deployment": case.name,
                    "kind": "chat",
                    "fault": case.fault,
                    **({"times": 1} if case.company == "once" else {}),
                }
                for case in CASES
            )
        )
        yield app
        await app.close()


async def ask(app: App, use_case: str, queue: str = "ask", **properties: Any) -> str:
    """Ask a question that no cache knows; says in which session the outcome comes."""
    question = f"What are the core hours for remote workers? ({uuid.uuid4().hex})"
    return await app.post({"question": question, "use_case": use_case}, queue=queue, **properties)


async def hear(app: App, session: str, queue: str = "answers") -> list[dict[str, Any]]:
    """The outcomes in a session; waits in steps, because the lock on a session without messages ends after a minute."""
    for _ in range(int(2 * PATIENCE / 20)):
        if found := await app.answers(session, queue=queue, wait=20, more=0.1):
            return found
    return []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ended(misbehaving: App, request: pytest.FixtureRequest) -> dict[Case, Ended]:
    """How the cases ended that this run has selected; a few dozen are on their way at a time."""
    app, gate = misbehaving, asyncio.Semaphore(64)
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    selected: list[Case] = [each["case"] for each in parameters if "case" in each]

    async def one(case: Case) -> list[dict[str, Any]]:
        waits = case.company == "alone" and case.promise.ends & WAITED
        async with gate:
            session = await ask(app, case.name, time_to_live=SHORT if waits else LONG)
            return await hear(app, session)

    outcomes = await asyncio.gather(*map(one, selected))
    made = (await app.control.get("/control/calls")).raise_for_status().json()
    log = app.stack.folder.logs.joinpath("generator.log").read_text("utf-8").splitlines()
    found = {}
    for case, told in zip(selected, outcomes, strict=True):
        about = told[0]["request_id"] if told else "none"
        found[case] = Ended(
            told,
            [call for call in made if call["deployment"] == case.name],
            [line for line in log if about in line],
        )
    return found


@pytest.mark.long
@pytest.mark.misbehaving
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_misbehaving_model_ends_as_promised(ended: dict[Case, Ended], case: Case) -> None:
    it, promise = ended[case], case.promise
    assert it.end in promise.ends, it.outcome["message"]
    assert not any(thought in it.outcome["text"] for thought in ("think>", "thinking>", "Passage 1 says so"))
    assert promise.says in "\n".join(it.log) or not it.calls
    lines = [line for line in it.outcome["calls"] if line["deployment"] == case.name]
    # A call that is repeated without a parameter is one: its refusal costs nothing.
    assert len(lines) == len(it.calls) or (case.fault in LESSONS and 1 <= len(lines) < len(it.calls))
    assert all(line["prompt_tokens"] <= WINDOW and line["completion_tokens"] <= LARGEST for line in lines)
    assert len([line for line in lines if line["prompt_tokens"]]) <= promise.paid


@pytest.mark.long
@pytest.mark.misbehaving
@pytest.mark.asyncio(loop_scope="session")
async def test_a_misbehaving_model_holds_up_no_other_use_case_and_no_other_tenant(misbehaving: App) -> None:
    app = misbehaving
    hopeless = [case for case in CASES if case.fault in ("hang", "500") and case.company == "alone"]
    waiting = [await ask(app, case.name, time_to_live=4 * SHORT) for case in hopeless for _ in range(8)]
    neighbours = [await ask(app, WELL) for _ in range(4)]
    partners = [await ask(app, WELL, queue="ask-partner") for _ in range(4)]

    async def outcome(session: str, queue: str = "answers") -> dict[str, Any]:
        [found] = await hear(app, session, queue)
        return found

    well = await asyncio.gather(
        *(outcome(session) for session in neighbours), *(outcome(session, "answers-partner") for session in partners)
    )
    ill = await asyncio.gather(*(outcome(session) for session in waiting))
    assert {each["outcome"] for each in well} == {"answered"}
    assert {f"{each['outcome']}/{each['code']}" for each in ill} <= WAITED | {"failed/InvalidReply"}
    last = max(each["finished_at"] for each in ill)
    assert all(each["finished_at"] < last for each in well)


@pytest.mark.long
@pytest.mark.misbehaving
@pytest.mark.asyncio(loop_scope="session")
async def test_no_worker_ended_or_crashed(ended: dict[Case, Ended], misbehaving: App) -> None:
    assert ended
    logs = misbehaving.stack.folder.logs
    for worker in ("gateway", "retriever", "generator"):
        lines = [json.loads(line) for line in logs.joinpath(f"{worker}.log").read_text("utf-8").splitlines()]
        assert [line["event"] for line in lines].count("worker.started") == 1
        # The SDK's own errors are logged as those of a library, such as a lock that was lost on a busy machine.
        bad = [line for line in lines if line["level"] == "error" and line["event"] != "library.error"]
        assert bad + [line for line in lines if "Crashed" in str(line)] == []


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("fault", SAMPLE)
async def test_a_model_that_misbehaves_once_or_for_good_ends_as_promised(app: App, fault: str) -> None:
    """A sample on the shared stack, of whose two deployments the first misbehaves."""
    mark = uuid.uuid4().hex
    await app.fail({"deployment": "onboarding-4k", "kind": "chat", "fault": fault, "question": mark})
    answer = await app.ask(f"What are the core hours for remote workers? ({mark})")
    case = Case(fault, stream=False, company="second")
    assert f"{answer['outcome']}/{answer['code']}" in case.promise.ends, answer["message"]
    assert "Passage 1 says so" not in answer["text"]
    lines = [line for line in answer["calls"] if line["deployment"] == "onboarding-4k"]
    assert 1 <= len(lines) <= max(1, PROMISES[fault].paid)


# Of embeddings: what is read as it is meant, or passes at the second attempt.
VECTORS = """
    emb-shuffled emb-index-missing emb-index-twice emb-one-missing emb-one-more emb-data-null emb-floats emb-base64-odd
    emb-nan emb-infinite emb-zeros base64-400 dimensions-400 html-200 empty-200 null-200 error-200 broken-json gzip cut
    cut-mid reset reset-mid 500 502-html 503-loading 429-seconds 429-date
""".split()


@pytest.mark.long
@pytest.mark.misbehaving
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("fault", VECTORS)
async def test_embeddings_that_misbehave_once_are_asked_again(app: App, fault: str) -> None:
    await app.fail({"deployment": "*", "kind": "embeddings", "fault": fault, "times": 1})
    answer = await app.ask(f"What are the core hours for remote workers? ({uuid.uuid4().hex})")
    assert answer["outcome"] == "answered", answer["message"]


@pytest.mark.long
@pytest.mark.misbehaving
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("fault", ["emb-short", "emb-long", "401", "404-model", "422-tgi", "429-quota"])
async def test_embeddings_that_are_wrongly_configured_are_the_operator_s_matter(app: App, fault: str) -> None:
    await app.fail({"deployment": "*", "kind": "embeddings", "fault": fault})
    answer = await app.ask(f"What are the core hours for remote workers? ({uuid.uuid4().hex})")
    assert (answer["outcome"], answer["code"]) == ("failed", "Misconfigured"), answer["message"]


@pytest.mark.long
@pytest.mark.misbehaving
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("fault", ["emb-nan", "emb-zeros", "emb-one-missing", "html-200", "null-200"])
async def test_embeddings_that_are_never_any_end_in_time(app: App, fault: str) -> None:
    await app.fail({"deployment": "*", "kind": "embeddings", "fault": fault})
    answer = await app.ask(f"What are the core hours? ({uuid.uuid4().hex})", time_to_live=timedelta(seconds=8))
    assert f"{answer['outcome']}/{answer['code']}" in WAITED | {"failed/InvalidReply"}, answer["message"]
