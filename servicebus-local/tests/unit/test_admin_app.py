"""The admin port as a function: who may ask what, page by page, and what is for people."""

import hmac
import json
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from servicebus_local.admin.authority import managers
from servicebus_local.admin.http import Request
from servicebus_local.bus.access import ROOT, Keys
from servicebus_local.bus.message import Message
from servicebus_local.bus.store import MemoryStore
from servicebus_local.bus.topology import (
    AccessRule,
    QueueOptions,
    Right,
    SubscriptionDefinition,
    TopicDefinition,
    Topology,
)
from tests.unit.admin_fixture import (
    HOST,
    AdminFixture,
    in_entry,
    next_page,
    queue,
    refused,
    rule,
    said,
    subscription,
    titles,
    topic,
)

# --------------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def crowd() -> AdminFixture:
    """250 queues, topics, subscriptions and rules; nobody changes them."""
    options = QueueOptions()
    subscriptions = {f"s{n:03}": SubscriptionDefinition(options, ()) for n in range(250)}
    admin = AdminFixture(
        Topology(
            {f"q{n:03}": options for n in range(250)},
            {f"t{n:03}": TopicDefinition(subscriptions=subscriptions if n == 0 else {}) for n in range(250)},
        )
    )
    for n in range(250):
        admin.put(f"/t000/subscriptions/s000/rules/r{n:03}", rule())
    return admin


@pytest.mark.parametrize(
    ("path", "letter"),
    [
        ("/$Resources/queues", "q"),
        ("/$resources/Topics", "t"),
        ("/t000/subscriptions", "s"),
        ("/t000/subscriptions/s000/rules", "r"),
    ],
)
def test_lists_are_read_page_by_page(crowd: AdminFixture, path: str, letter: str) -> None:
    found, pages = list[str](), 0
    skip = top = None
    while True:
        answer = crowd.ask("GET", path, skip=skip, top=top)
        found, pages = found + titles(answer), pages + 1
        link = next_page(answer)
        if link is None:
            break
        fields = parse_qs(urlsplit(link).query)
        [skip], [top] = fields["$skip"], fields["$top"]
    assert found == [f"{letter}{n:03}" for n in range(250)]
    assert pages == 3


@pytest.mark.parametrize(
    ("skip", "top", "count", "more"),
    [
        ("0", "7", 7, True),
        ("245", "100", 5, False),
        ("0", "1000", 100, True),
        ("150", "100", 100, False),
        ("0", "0", 0, False),
        ("9000", "10", 0, False),
    ],
)
def test_a_page_is_as_long_as_asked_for_up_to_a_hundred(
    crowd: AdminFixture, skip: str, top: str, count: int, more: bool
) -> None:
    answer = crowd.ask("GET", "/$Resources/queues", skip=skip, top=top)
    assert len(titles(answer)) == count
    assert (next_page(answer) is not None) is more


@pytest.mark.parametrize("number", ["-1", "x", "", "1.5", "1" * 30])
def test_pages_that_cannot_be_are_refused(number: str) -> None:
    assert refused(AdminFixture().ask("GET", "/$Resources/queues", skip=number)) == (400, "40000")
    assert refused(AdminFixture().ask("GET", "/$Resources/queues", top=number)) == (400, "40000")


# --------------------------------------------------------------------------- methods and versions


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/orders", "GET, PUT, DELETE"),
        ("/news/subscriptions/all", "GET, PUT, DELETE"),
        ("/news/subscriptions/all/rules/r", "GET, PUT, DELETE"),
        ("/news/subscriptions", "GET"),
        ("/news/subscriptions/all/rules", "GET"),
        ("/$Resources/queues", "GET"),
        ("/$namespaceinfo", "GET"),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PATCH", "TRACE"])
def test_a_wrong_method_is_answered_with_the_allowed_ones(path: str, allowed: str, method: str) -> None:
    answer = AdminFixture().ask(method, path)
    assert refused(answer) == (405, "40500")
    assert dict(answer.headers) == {"allow": allowed}


@pytest.mark.parametrize("version", ["2013-10", "2017-04", "2021-05", "2024-05", "2030-12"])
def test_every_version_is_answered(version: str) -> None:
    assert AdminFixture().ask("GET", "/$Resources/queues", api_version=version).status == 200


@pytest.mark.parametrize("version", ["latest", "2021", "2021-13", "2021-05-01", "1999-01"])
def test_an_invalid_api_version_is_refused(version: str) -> None:
    assert refused(AdminFixture().ask("GET", "/$Resources/queues", api_version=version)) == (400, "40000")


# --------------------------------------------------------------------------- credentials

NOW = 1_800_000_000.0
READER = AccessRule("reader", ("r",), frozenset({Right.LISTEN}))
OWNER = AccessRule("owner", ("o",))


def signed(rule: AccessRule, path: str = "", expiry: int = 1_800_003_600) -> dict[str, str]:
    """Sign as the SDK does; the resource of an administration client is the whole namespace."""
    resource = quote(f"https://{HOST}/{path}", safe="")
    digest = hmac.digest(rule.keys[0].encode(), f"{resource}\n{expiry}".encode(), "sha256")
    signature = quote(b64encode(digest), safe="")
    return {"authorization": f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={rule.name}"}


def guarded() -> AdminFixture:
    """An admin that asks who is there; `orders` has an owner of its own."""
    topology = Topology({"orders": QueueOptions(access=(OWNER,)), "other": QueueOptions()}, {"news": TopicDefinition()})
    admin = AdminFixture(topology)
    keys = Keys({"": [READER]}, admin.namespace, lambda: NOW)
    return AdminFixture(topology, authorize=managers(keys))


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        pytest.param(signed(ROOT), "/orders", id="the namespace's policy"),
        pytest.param(signed(ROOT), "/$Resources/queues", id="the namespace's policy for a list"),
        pytest.param(signed(ROOT, "orders"), "/orders", id="for one entity"),
        pytest.param(signed(OWNER, "orders"), "/orders", id="the entity's policy"),
        pytest.param(signed(ROOT, "$Resources/queues"), "/$Resources/queues", id="for one list"),
        pytest.param(signed(ROOT, "news/Subscriptions"), "/news/Subscriptions", id="for what lies in a topic"),
    ],
)
def test_managers_are_let_in(headers: dict[str, str], path: str) -> None:
    assert guarded().ask("GET", path, headers=headers).status == 200


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        pytest.param({}, "/orders", id="nobody"),
        pytest.param({}, "/$namespaceinfo", id="nobody, of the namespace"),
        pytest.param({"authorization": "Bearer x.y.z"}, "/orders", id="a bearer"),
        pytest.param({"authorization": "Basic eDp5"}, "/orders", id="a password"),
        pytest.param(signed(AccessRule("RootManageSharedAccessKey", ("wrong",))), "/orders", id="a wrong key"),
        pytest.param(signed(AccessRule("nobody", ("local",))), "/orders", id="an unknown policy"),
        pytest.param(signed(ROOT, expiry=1_799_999_999), "/orders", id="too late"),
        pytest.param(signed(READER), "/orders", id="a reader"),
        pytest.param(signed(OWNER, "orders"), "/other", id="another entity"),
        pytest.param(signed(OWNER, "orders"), "/$Resources/queues", id="an entity's policy for a list"),
        pytest.param(signed(OWNER), "/orders", id="an entity's policy for the namespace"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_others_are_not(headers: dict[str, str], path: str, method: str) -> None:
    admin = guarded()
    if method == "GET" or not path.startswith("/$"):
        assert refused(admin.ask(method, path, in_entry(queue()), headers)) == (401, "40100")
    assert admin.namespace.get("orders") is not None


@pytest.mark.parametrize("path", ["/news/subscriptions/s", "/news/subscriptions", "/news/subscriptions/s/rules"])
def test_what_lies_in_a_topic_needs_a_token_too(path: str) -> None:
    assert refused(guarded().ask("GET", path)) == (401, "40100")


def test_forwarding_needs_the_right_to_manage_the_target() -> None:
    admin, own = guarded(), signed(OWNER, "orders")
    assert refused(admin.ask("PUT", "/orders", in_entry(queue(ForwardTo="other")), own | {"if-match": "*"})) == (
        401,
        "40100",
    )
    both = own | {"if-match": "*", "servicebussupplementaryauthorization": signed(ROOT, "other")["authorization"]}
    assert admin.ask("PUT", "/orders", in_entry(queue(ForwardTo="other")), both).status == 200
    dead = queue(ForwardDeadLetteredMessagesTo="other")
    assert refused(admin.ask("PUT", "/orders", in_entry(dead), both)) == (401, "40100")
    for_dead = both | {"servicebusdlqsupplementaryauthorization": signed(ROOT, "other")["authorization"]}
    assert admin.ask("PUT", "/orders", in_entry(dead), for_dead).status == 200


# --------------------------------------------------------------------------- for people


def curl(admin: AdminFixture, path: str, method: str = "GET") -> tuple[int, Any]:
    """Ask without a version, as people do."""
    answer = admin.app(Request(method, path, {}, HOST, True))
    return answer.status, json.loads(answer.body) if answer.content_type == "application/json" else answer.body


def test_people_need_no_credential() -> None:
    admin = guarded()
    assert curl(admin, "/health") == (200, {"status": "accepting"})
    assert curl(admin, "/connections") == (200, {"current": 0, "peak": 0, "containers": []})
    assert curl(admin, "/connections/reset-peak", "POST")[0] == 200
    assert curl(admin, "/stats")[0] == 200
    assert curl(admin, "/orders")[0] == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/health"), ("HEAD", "/health"), ("GET", "/connections/reset-peak"), ("PUT", "/stats")],
)
def test_pages_for_people_have_one_method(method: str, path: str) -> None:
    assert curl(AdminFixture(), path, method)[0] == 405


@pytest.mark.parametrize("name", ["health", "connections", "stats", "stats/orders"])
def test_an_entity_may_be_called_like_a_page(name: str) -> None:
    admin = AdminFixture()
    admin.made(f"/{name}", queue())
    assert said(admin.look(f"/{name}"), "Status") == "Active"
    assert admin.ask("DELETE", f"/{name}").status == 200


BODY = b"\x00\x53\x75\xa0\x03abc"  # a data section


class Consumer:
    """A receiver that takes what it is given."""

    name, container, deletes, sends = "receiver", "test", False, False

    def __init__(self) -> None:
        self.tokens: list[bytes] = []
        self.ready = True

    def deliver(self, _message: Message, token: bytes | None, _until: float | None) -> None:
        """Remember the lock."""
        self.tokens.append(token or b"")
        self.ready = False

    def lost(self, _error: Exception) -> None:
        """Nothing to clean up."""


def test_stats_say_where_messages_are_and_how_old() -> None:
    admin = AdminFixture(
        Topology({"orders": QueueOptions()}, {"news": TopicDefinition(subscriptions={"all": SubscriptionDefinition()})})
    )
    orders, receiver = admin.namespace.queue("orders"), Consumer()
    orders.send([Message(BODY) for _ in range(2)])
    admin.timers.advance(admin.clock, 30)
    orders.send([Message(BODY), Message(BODY)])
    later = Message(BODY)
    later.scheduled_for = admin.clock.now + 60
    orders.send([later])
    for settle in (orders.defer, lambda token: orders.dead_letter(token, None, None)):
        receiver.ready = True
        orders.dispatch(orders.subscribe(receiver))
        settle(receiver.tokens[-1])
        orders.unsubscribe(receiver)
    receiver.ready = True
    orders.dispatch(orders.subscribe(receiver))
    admin.timers.advance(admin.clock, 5)
    status, stats = curl(admin, "/stats/ORDERS")
    assert status == 200
    assert {name: stats[name] for name in ("kind", "active", "locked", "deferred", "scheduled", "dead_lettered")} == {
        "kind": "queue",
        "active": 1,
        "locked": 1,
        "deferred": 1,
        "scheduled": 1,
        "dead_lettered": 1,
    }
    assert (stats["receivers"], stats["receivers_waiting"], stats["senders"]) == (1, 0, 0)
    assert stats["oldest_age_seconds"] == 5
    assert stats["oldest_enqueued_at"] == "2027-01-15T08:00:30.000000Z"
    assert curl(admin, "/stats/orders/$DeadLetterQueue")[1]["active"] == 1
    assert list(curl(admin, "/stats")[1]) == ["orders", "news", "news/Subscriptions/all"]


def test_looking_at_what_is_not_there_does_not_make_it() -> None:
    admin = AdminFixture()
    admin.namespace.default_options = QueueOptions()
    assert curl(admin, "/stats/nowhere")[0] == 404
    assert titles(admin.ask("GET", "/nowhere")) == []
    assert admin.namespace.size == 0


# --------------------------------------------------------------------------- durability and limits


class Ledger(MemoryStore):
    """Notes what was saved since the last commit, and when a commit came."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.commits = 0

    def save(self, entity: Any) -> None:
        """Note it."""
        self.open.append(entity.path)

    def delete(self, path: str) -> None:
        """Note it."""
        self.open.append(path)

    def commit(self) -> None:
        """Note that what was open is durable."""
        self.open.clear()
        self.commits += 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/new", queue()),
        ("PUT", "/new-topic", topic()),
        ("PUT", "/news/subscriptions/new", subscription()),
        ("PUT", "/news/subscriptions/all/rules/r", rule()),
        ("DELETE", "/news/subscriptions/all/rules/$Default", ""),
        ("DELETE", "/news/subscriptions/all", ""),
        ("DELETE", "/news", ""),
    ],
)
def test_a_change_is_durable_before_it_is_reported(method: str, path: str, body: str) -> None:
    ledger = Ledger()
    admin = AdminFixture(
        Topology({}, {"news": TopicDefinition(subscriptions={"all": SubscriptionDefinition()})}), store=ledger
    )
    before = ledger.commits
    assert admin.ask(method, path, in_entry(body)).status < 300
    assert ledger.open == []
    assert ledger.commits == before + 1


def test_the_number_of_entities_in_a_namespace_is_limited() -> None:
    admin = AdminFixture(Topology({f"q{n}": QueueOptions() for n in range(10_000)}))
    assert refused(admin.put("/more", queue())) == (403, "40300")
    assert admin.ask("DELETE", "/q1").status == 200
    assert admin.put("/more", topic()).status == 201
