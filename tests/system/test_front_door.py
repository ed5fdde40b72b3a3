"""Through the front door of the whole system: by queue and by HTTP, over real sockets and four worker processes."""

import asyncio
import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageSizeExceededError

from ops.upstream import Upstream
from tests.support.waiting import until
from tests.system.conftest import App, Collector

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("question", "document", "expected"),
    [
        ("What is the notice period during probation for staff?", "probation-and-notice.md", "week"),
        ("How many days of annual leave does a new employee in Portugal receive?", "leave-policy.pdf", "24 days"),
        ("From which amount do I need a receipt in 2026?", "expenses-2026.docx", "EUR 15"),
        ("For which systems is the VPN required?", "it-onboarding.html", "Keel"),
    ],
)
async def test_a_question_on_the_queue_becomes_a_cited_answer(
    app: App, question: str, document: str, expected: str
) -> None:
    answer = await app.ask(question, correlation_id="mine")
    assert (answer["outcome"], answer["code"], answer["correlation_id"]) == ("answered", "Ok", "mine")
    assert expected in answer["text"]
    cited = {citation["path"]: citation for citation in answer["citations"]}
    assert document in cited
    assert cited[document]["version"] >= 1
    assert cited[document]["quote"]
    assert answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"] <= 4000
    assert answer["plan"]["deployment"] == "onboarding-4k"
    if document.endswith(".pdf"):
        assert cited[document]["page"] >= 1


async def test_what_the_handbook_does_not_say_is_not_answered(app: App) -> None:
    answer = await app.ask("How many stock options do new employees receive?")
    assert (answer["outcome"], answer["code"], answer["text"]) == ("no_answer", "NotInDocuments", "")


async def test_the_same_question_is_answered_from_the_cache_and_costs_nothing(app: App) -> None:
    question = "Who approves a claim that is older than 30 days?"
    first = await app.ask(question)
    again = await app.ask(f"  {question.upper()} ")
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert (again["text"], again["usage"]["prompt_tokens"]) == (first["text"], 0)
    assert again["request_id"] != first["request_id"]
    assert len(await app.calls(question)) == 1


async def test_a_document_that_is_edited_is_answered_from_anew(app: App) -> None:
    document = app.stack.lake / "parking.md"
    question = "How much does a place in the Odense bicycle cellar cost?"
    await write(app, document, "# Bicycles\n\nA place in the Odense bicycle cellar costs EUR 11 per month.\n")
    assert "EUR 11" in (await app.ask(question))["text"]
    assert (await app.ask(question))["cache"] == "hit"
    await write(app, document, "# Bicycles\n\nA place in the Odense bicycle cellar costs EUR 14 per month.\n")
    answer = await app.ask(question)
    assert "EUR 14" in answer["text"]
    assert (answer["cache"], answer["citations"][0]["version"]) == ("miss", 2)

    moved = document.with_name("bicycles.md")
    document.rename(moved)
    await until(lambda: is_indexed(app, "bicycles.md"))
    await until(lambda: is_gone(app, "parking.md"))
    assert (await app.ask(question))["citations"][0]["path"] == "bicycles.md"

    moved.unlink()
    await until(lambda: is_gone(app, "bicycles.md"))
    assert (await app.ask(question))["outcome"] == "no_answer"


async def test_callers_see_what_their_groups_may_see(app: App) -> None:
    question = "What is the approved headcount for the end of 2026?"
    employee, manager = await app.ask(question), await app.ask(question, queue="ask-hr")
    assert not any(citation["path"].startswith("managers/") for citation in employee["citations"])
    assert any(citation["path"].startswith("managers/") for citation in manager["citations"])


async def test_what_a_message_claims_of_itself_is_not_honoured(app: App) -> None:
    forged = {
        "question": "What is the approved headcount for the end of 2026?",
        "tenant": "tessolund",
        "groups": ["managers"],
        "caller": "hr-portal",
        "request": {"groups": ["managers"]},
    }
    session = await app.post(forged, application_properties={"groups": "managers", "ragbus-run": "p1"})
    [answer] = await app.answers(session)
    assert not any(citation["path"].startswith("managers/") for citation in answer["citations"])

    session = await app.post({"question": "How?"}, reply_to="answers-hr")
    [answer] = await app.answers(session)  # its own queue, not the one it named
    assert (answer["outcome"], answer["code"]) == ("refused", "ReplyToNotAllowed")


async def test_two_callers_with_the_same_message_id_get_two_outcomes(app: App) -> None:
    question = "When does the working day start for new colleagues?"
    first = await app.ask(question, message_id="same-for-both")
    second = await app.ask(question, message_id="same-for-both", queue="ask-hr")
    assert first["request_id"] != second["request_id"]


async def test_the_client_to_copy_asks_twenty_things_at_once(app: App) -> None:
    question = "What are the core hours for remote workers?"
    async with (
        ServiceBusClient.from_connection_string(app.stack.connection_string) as bus,
        Upstream(bus) as upstream,
    ):
        await upstream.ask(question, use_case="onboarding")  # the others are cached: twenty reservations are a lot
        ids = [uuid.uuid4().hex for _ in range(20)]
        asks = [upstream.ask(question, use_case="onboarding", message_id=each) for each in ids]
        answers = await asyncio.gather(*asks)
    assert [answer["correlation_id"] for answer in answers] == ids
    assert {answer["outcome"] for answer in answers} == {"answered"}


async def test_a_message_sent_twice_has_one_outcome_and_is_paid_once(app: App) -> None:
    question = "How long is a laptop kept before it is replaced?"
    body = {"question": question}
    session = await app.post(body, message_id="twice", reply_to_session_id="twice")
    await app.post(body, message_id="twice", reply_to_session_id="twice")
    found = await app.answers(session, more=2)
    assert len(found) == 1
    assert len(await app.calls(question)) <= 1


@pytest.mark.parametrize(
    ("body", "properties", "code"),
    [
        (b"{not json", {}, "SchemaInvalid"),
        (b"\xff\xfe\x00", {}, "PoisonContent"),
        (b"{}", {}, "SchemaInvalid"),
        (b'{"question": "How?"}', {"subject": "ask.v9"}, "SchemaUnsupported"),
        (b"[" * 50_000, {}, "PoisonContent"),
    ],
)
async def test_a_message_that_cannot_be_read_gets_an_outcome_and_is_archived_with_a_reason(
    app: App, body: bytes, properties: dict[str, Any], code: str
) -> None:
    session = await app.post(body, **properties)
    [answer] = await app.answers(session)
    assert (answer["outcome"], answer["code"], answer["retryable"]) == ("failed", code, False)
    assert answer["message"]

    async def archived() -> Any:
        return [dead for dead in await app.dead() if dead.reply_to_session_id == session]

    [dead] = await until(archived)
    assert dead.dead_letter_reason == code
    assert dead.dead_letter_error_description
    assert dead.dead_letter_source == "ask"


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"question": "How?", "use_case": "payroll"}, "UnknownUseCase"),
        ({"question": "why " * 700}, "QuestionTooLong"),
    ],
)
async def test_what_is_not_allowed_is_refused(app: App, ask: dict[str, Any], code: str) -> None:
    [answer] = await app.answers(await app.post(ask))
    assert (answer["outcome"], answer["code"]) == ("refused", code)


async def test_a_message_that_is_too_large_is_the_senders_error(app: App) -> None:
    with pytest.raises(MessageSizeExceededError):
        await app.post({"question": "x" * 300_000})


async def test_what_a_broker_takes_and_our_messages_cannot_carry_is_refused_at_once(app: App) -> None:
    turns = [{"role": "user", "text": "漢" * 8_000}] * 10
    body = json.dumps({"question": "How?", "conversation": turns}, ensure_ascii=False).encode()
    [answer] = await app.answers(await app.post(body))
    assert (answer["outcome"], answer["code"], answer["retryable"]) == ("refused", "PayloadTooLarge", False)


async def test_an_answer_without_an_end_is_one_outcome_that_says_so(app: App) -> None:
    """A model that ignores max_tokens, by queue and by HTTP, and what is read of it later."""
    await app.fail({"deployment": "*", "kind": "chat", "repeat": 1_000})
    body = {"question": "How many weeks of parental leave do employees in Denmark receive?", "cache": "refresh"}
    session = await app.post({**body, "use_case": "onboarding"})
    [first, *more] = await app.answers(session, more=2)
    assert more == []
    reply = await app.http.post("/v1/onboarding/ask?wait=50", json=body, headers=app.key())
    stored = await app.http.get(reply.headers["Location"], headers=app.key())
    assert stored.json() == reply.json()
    for answer in (first, reply.json()):
        assert (answer["outcome"], answer["truncated"]) == ("answered", True)
        assert answer["message"]
        assert answer["citations"]
        assert 10_000 < len(answer["text"].encode()) < 100_000
        assert answer["usage"]["completion_tokens"] > 1_000


async def test_a_question_over_http_is_answered_in_the_same_call(app: App) -> None:
    body = {"question": "What are the core hours for remote workers?"}
    reply = await app.http.post("/v1/onboarding/ask?wait=50", json=body, headers=app.key())
    assert reply.status_code == 200
    answer = reply.json()
    assert (answer["outcome"], answer["citations"][0]["path"]) == ("answered", "remote-work.md")
    stored = await app.http.get(reply.headers["Location"], headers=app.key())
    assert stored.json()["text"] == answer["text"]


async def test_a_question_over_http_can_be_fetched_later_and_only_by_its_caller(app: App) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "latency": 1.5})
    body = {"question": "Which documents do I bring on the first day?"}
    headers = {**app.key(), "Idempotency-Key": "first-day"}
    reply = await app.http.post("/v1/onboarding/ask", json=body, headers=headers)
    assert reply.status_code == 202
    place = reply.headers["Location"]
    assert (await app.http.get(place, headers=app.key())).status_code == 202
    assert (await app.http.get(place, headers=app.key("ask-hr"))).status_code == 404
    outcome = await app.http.get(f"{place}?wait=50", headers=app.key())
    assert (outcome.status_code, outcome.json()["outcome"]) == (200, "answered")
    again = await app.http.post("/v1/onboarding/ask", json=body, headers=headers)
    assert again.headers["Location"] == place


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "code"),
    [
        ("/v1/onboarding/ask", {"Authorization": ""}, {"question": "How?"}, 401, "Unauthorized"),
        ("/v1/onboarding/ask", {"Authorization": "Bearer wrong"}, {"question": "How?"}, 401, "Unauthorized"),
        ("/v1/payroll/ask", {}, {"question": "How?"}, 404, "UnknownUseCase"),
        ("/v1/onboarding/ask", {}, {"question": ""}, 422, "SchemaInvalid"),
        ("/v1/onboarding/ask", {}, {}, 422, "SchemaInvalid"),
        ("/v1/onboarding/ask", {}, {"question": "why " * 700}, 422, "QuestionTooLong"),
        ("/v1/onboarding/ask?wait=900", {}, {"question": "How?"}, 422, "SchemaInvalid"),
        ("/v1/onboarding/ask", {}, {"question": "x" * 200_000}, 413, "PayloadTooLarge"),
        ("/nowhere", {}, {}, 404, "NotFound"),
    ],
)
async def test_http_errors_are_problems_with_a_code(
    app: App, path: str, headers: dict[str, str], body: dict[str, str], status: int, code: str
) -> None:
    reply = await app.http.post(path, json=body, headers={**app.key(), **headers})
    assert reply.status_code == status
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    assert reply.json()["detail"]
    assert reply.json()["code"] == code


async def test_http_without_a_key_holds_nothing_and_a_caller_is_answered_meanwhile(app: App) -> None:
    host, port = app.http.base_url.host, app.http.base_url.port
    half = b"POST /v1/onboarding/ask HTTP/1.1\r\nHost: x\r\nContent-Length: 131000\r\n\r\n" + b"x" * 60_000
    strangers = [await asyncio.open_connection(host, port) for _ in range(300)]
    for _, writer in strangers:
        writer.write(half)
    reply = await app.http.post("/v1/onboarding/ask", json={"question": "Where is the canteen?"}, headers=app.key())
    assert reply.status_code in (200, 202)
    for reader, writer in strangers:
        with suppress(ConnectionError):  # beyond the cap the oldest are dropped without an answer
            assert (await reader.read())[:12] in (b"HTTP/1.1 401", b"")
        writer.close()


async def test_a_request_is_one_trace_through_all_queues(app: App, collector: Collector) -> None:
    parent = f"{'ab' * 16}"
    session = await app.post(
        {"question": "How is a security incident reported?", "cache": "refresh"},
        application_properties={"traceparent": f"00-{parent}-{'cd' * 8}-01"},
    )
    [answer] = await app.answers(session)
    assert answer["trace_id"] == parent
    wanted = {"process ask", "send retrieve", "process retrieve", "send generate", "process generate", "send answers"}

    async def every_span() -> Any:
        return wanted <= {span["name"] for span in collector.of(parent)}

    await until(every_span)
    spans = collector.of(parent)
    assert {span["service"] for span in spans} == {"gateway", "retriever", "generator"}
    known = {span["id"] for span in spans} | {"cd" * 8}
    assert all(span["parent"] in known for span in spans)
    assert any(span["name"].startswith("chat ") for span in spans)


async def test_every_worker_tells_how_it_is(app: App) -> None:
    for name in ("gateway", "retriever", "generator", "indexer"):
        for path, word in (("/healthz", "alive"), ("/readyz", "ready"), ("/metrics", "messaging_process_duration")):
            reply = await app.control.get(app.stack.health_url(name) + path)
            assert reply.status_code == 200, (name, path)
            assert word in reply.text, (name, path)


async def test_bad_documents_are_told_apart_and_do_no_harm(app: App) -> None:
    lake = app.stack.lake
    (lake / "broken.pdf").write_bytes(b"%PDF-1.7 this is none")
    (lake / "movie.mp4").write_bytes(b"\x00\x01")
    (lake / "vanishes.md").write_text("# Gone\n\nBefore anybody looked.\n")
    (lake / "vanishes.md").unlink()
    await write(app, lake / "empty.md", "")

    async def both_reported() -> Any:
        names = ("broken.pdf", "movie.mp4")
        found = {
            said: dead
            for dead in await app.dead("blob-events")
            if any(name in (said := str(dead.dead_letter_error_description)) for name in names)
        }
        return {str(dead.dead_letter_reason) for dead in found.values()} if len(found) >= 2 else None

    assert await until(both_reported) == {"PoisonContent"}
    assert (await app.documents())["empty.md"].passages == 0
    await write(app, lake / "after.md", "# After\n\nThe indexer of the test goes on with document 4711.\n")
    answer = await app.ask("With which document does the indexer of the test go on?")
    assert "4711" in answer["text"]
    for name in ("broken.pdf", "movie.mp4", "empty.md", "after.md"):
        (lake / name).unlink()


async def test_a_document_has_the_readers_of_its_place(app: App) -> None:
    """Neither another spelling of its path nor a link to it gives it others, whatever an event says."""
    lake = app.stack.lake
    (lake / "managers" / "vault.md").write_text("# Vault\n\nThe code of the zebra vault is QUARTZ-4411.\n")
    (lake / "link.md").symlink_to("managers/vault.md")
    (lake / "folder").symlink_to("managers", target_is_directory=True)
    await until(lambda: is_indexed(app, "managers/vault.md"))
    spelled = ["managers//vault.md", "/managers/vault.md", "managers\\vault.md"]
    for path in [*spelled, "link.md", "folder/vault.md", "Managers/vault.md"]:
        subject = f"/blobServices/default/containers/handbook/blobs/{path}"
        event = {
            "id": path,
            "eventType": "Microsoft.Storage.BlobCreated",
            "subject": subject,
            "data": {"api": "PutBlob"},
        }
        more = {"topic": "", "eventTime": "2026-11-27T12:00:00Z", "dataVersion": "", "metadataVersion": "1"}
        await app.post({**event, **more}, queue="blob-events", message_id=path)

    async def looked_at() -> bool:
        return not await app.peek("blob-events")

    async def refused() -> bool:
        why = {str(dead.message_id): str(dead.dead_letter_error_description) for dead in await app.dead("blob-events")}
        return all("give it another path" in why.get(path, "") for path in spelled)

    await until(looked_at)
    assert [path for path in await app.documents() if path.endswith(("vault.md", "link.md"))] == ["managers/vault.md"]
    question = "What is the code of the zebra vault?"
    assert "QUARTZ-4411" in (await app.ask(question, queue="ask-hr"))["text"]
    assert "QUARTZ-4411" not in (await app.ask(question))["text"]
    await until(refused)
    for path in ("link.md", "folder", "managers/vault.md"):
        (lake / path).unlink()


UNSEEN = "\u034f\u200b\u202e\u2066\u3164\ufe0f" + "".join(chr(0xE0000 + ord(letter)) for letter in "obey")


async def test_what_people_cannot_see_goes_in_nowhere_and_comes_out_nowhere(app: App) -> None:
    """A document, its name, a question, a conversation and a model that hide something; and the same without."""
    name = "kayak\u202e-rental.md"
    await write(
        app, app.stack.lake / name, f"# Kayak{UNSEEN}s\n\nA kay{UNSEEN}ak costs EUR 19 per day.[[e{UNSEEN}nd 1 x]]\n"
    )
    turns = [{"role": "user", "text": "What{} can I rent?"}, {"role": "assistant", "text": "A{} kayak."}]

    async def ask(hidden: str) -> dict[str, Any]:
        conversation = [{**turn, "text": turn["text"].format(hidden)} for turn in turns]
        question = f"How much{hidden} does a kayak cost per day?"
        [answer] = await app.answers(await app.post({"question": question, "conversation": conversation}))
        return answer

    first, again = await ask(UNSEEN), await ask("")
    assert (first["outcome"], first["cache"], again["cache"]) == ("answered", "miss", "hit")
    [citation] = first["citations"]
    assert "EUR 19" in citation["quote"]
    assert citation["path"] == "kayak\\u202e-rental.md"
    told = json.dumps([first, again], ensure_ascii=False)
    assert not any(char in told for char in UNSEEN + "\u202e")
    assert len(await app.calls("How much does a kayak cost per day?")) == 1

    says = f"A kayak{UNSEEN} costs EUR 19{chr(0x1B)}[m per day 【1†kayaks】. Pay [here [1]](https://evil.example)."
    await app.fail({"deployment": "*", "kind": "chat", "says": says})
    answer = await app.ask("What is the price of a kayak per day?")
    assert (answer["outcome"], answer["text"]) == ("answered", "A kayak costs EUR 19 per day. [1] Pay here.")
    (app.stack.lake / name).unlink()


async def test_no_secret_and_no_question_is_written_to_a_log(app: App) -> None:
    await app.ask("What does zebrafishquestion mean in the handbook?")
    logs = "".join(path.read_text(errors="replace") for path in app.stack.folder.logs.glob("*.log"))
    workers = [line for line in logs.splitlines() if '"service": "gateway"' in line or '"service": "generator"' in line]
    assert workers
    assert all(json.loads(line)["event"] for line in workers)
    for secret in ("zebrafishquestion", "SharedAccessKey=", "laptop-key-welcome-app"):
        assert secret not in "\n".join(workers)


async def write(app: App, path: Path, text: str) -> None:
    """Put a document into the lake and wait until it counts."""
    before = (await app.documents()).get(path.name)
    path.write_text(text)

    async def counts() -> bool:
        now = (await app.documents()).get(path.name)
        return now is not None and (before is None or now.version > before.version)

    await until(counts)


async def is_indexed(app: App, name: str) -> bool:
    return name in await app.documents()


async def is_gone(app: App, name: str) -> bool:
    return name not in await app.documents()
