"""Shared access policies: which signature opens what, in whose name, and for how long."""

import base64
import hmac
from collections.abc import Callable
from urllib.parse import quote

import pytest

from servicebus_local.bus.access import Access, Keys, covers, path_of
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import QuotaExceeded, Unauthorized
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topology import (
    AccessRule,
    QueueOptions,
    Right,
    SubscriptionDefinition,
    TopicDefinition,
    TopicOptions,
    Topology,
)
from servicebus_local.nodes.grants import ANY, LISTEN, SEND, Grants

NOW = 1000
ALL = frozenset(Right)
ROOT = "RootManageSharedAccessKey"


def encoded(text: str) -> str:
    return quote(text, safe="")


def sign(
    resource: str,
    key: str = "local",
    expiry: int | str = 2000,
    name: str = ROOT,
    write: Callable[[str], str] = encoded,
    signed: Callable[[str], str] | None = None,
) -> str:
    """Make a token by hand, as documented: the resource is signed as it is written."""
    text = f"{(signed or write)(resource)}\n{expiry}".encode()
    digest = encoded(base64.b64encode(hmac.digest(key.encode(), text, "sha256")).decode())
    return f"SharedAccessSignature sr={write(resource)}&sig={digest}&se={expiry}&skn={encoded(name)}"


@pytest.fixture
def namespace() -> Namespace:
    orders = QueueOptions(access=(AccessRule("sender", ("s1", "s2"), frozenset({Right.SEND})),))
    news = TopicOptions(access=(AccessRule("reader", ("r1",), frozenset({Right.LISTEN})),))
    topology = Topology(
        {"orders": orders, "team/jobs": QueueOptions(), "orders-2": QueueOptions()},
        {"News": TopicDefinition(news, {"all": SubscriptionDefinition()})},
    )
    return Namespace(topology, Timers(ManualClock(0)))


@pytest.fixture
def keys(namespace: Namespace) -> Keys:
    policies = {
        "": (AccessRule("listener", ("l1",), frozenset({Right.LISTEN})),),
        "Team/Jobs": (AccessRule("sender", ("j1",), frozenset({Right.SEND})),),
    }
    return Keys(policies, namespace, ManualClock(NOW))


@pytest.mark.parametrize("key", ["local", "SAS_KEY_VALUE"])
def test_the_root_policy_has_all_rights_everywhere(keys: Keys, key: str) -> None:
    assert keys.check(sign("sb://host:1/orders", key), "orders") == Access("orders", ALL, 2000)
    assert keys.check(sign("sb://host/", key), "orders-2") == Access("orders-2", ALL, 2000)
    assert keys.check(sign("sb://host", key), "") == Access("", ALL, 2000)


def test_the_root_policy_can_be_given_other_keys() -> None:
    namespace = Namespace(Topology({"q": QueueOptions()}), Timers(ManualClock(0)))
    keys = Keys({"": (AccessRule(ROOT, ("secret",)),)}, namespace, ManualClock(NOW))
    assert keys.check(sign("sb://h/q", "secret"), "q").rights == ALL
    with pytest.raises(Unauthorized, match="InvalidSignature"):
        keys.check(sign("sb://h/q", "local"), "q")


@pytest.mark.parametrize(
    ("token", "path", "rights"),
    [
        (sign("sb://h/orders", "l1", name="listener"), "orders", {Right.LISTEN}),
        (sign("sb://h/orders", "s1", name="sender"), "orders", {Right.SEND}),
        (sign("sb://h/orders", "s2", name="sender"), "orders/$DeadLetterQueue", {Right.SEND}),
        (sign("sb://h/orders/$management", "s2", name="sender"), "orders", {Right.SEND}),
        (sign("sb://h/team/jobs", "j1", name="sender"), "team/jobs", {Right.SEND}),
        (sign("sb://h/news", "r1", name="reader"), "news/Subscriptions/all", {Right.LISTEN}),
        (sign("sb://h/news/subscriptions/all", "r1", name="reader"), "news/Subscriptions/all", {Right.LISTEN}),
    ],
)
def test_a_policy_gives_its_rights_on_its_entity_and_below(
    keys: Keys, token: str, path: str, rights: set[Right]
) -> None:
    assert keys.check(token, path).rights == rights


@pytest.mark.parametrize(
    ("token", "path"),
    [
        (sign("sb://h/orders", "s1", name="sender"), "orders-2"),
        (sign("sb://h/orders"), ""),
        (sign("sb://h/orders"), "news"),
        (sign("sb://h/news/subscriptions/all"), "news"),
        (sign("sb://h/orders/$DeadLetterQueue"), "orders"),
    ],
)
def test_a_token_for_something_else_has_the_wrong_audience(keys: Keys, token: str, path: str) -> None:
    with pytest.raises(Unauthorized, match="InvalidAudience"):
        keys.check(token, path)


@pytest.mark.parametrize(
    "token",
    [
        sign("sb://h/orders", "guess"),
        sign("sb://h/orders", name="nobody"),
        sign("sb://h/orders").replace("se=2000", "se=3000"),
        sign("sb://h/orders").replace("sig=", "sig=A"),
        sign("sb://h/orders", "j1", name="sender"),  # the key of another entity's policy of that name
        sign("sb://h/", "s1", name="sender"),  # an entity's policy cannot sign for the namespace
        sign("sb://h/orders", "r1", name="reader"),
    ],
)
def test_a_token_that_none_of_our_keys_made_has_an_invalid_signature(keys: Keys, token: str) -> None:
    with pytest.raises(Unauthorized, match="invalid signature"):
        keys.check(token, "orders")


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        ("sb://host/orders", "orders"),
        ("amqps://host:5672/orders/", "orders"),
        ("HTTPS://Host/ORDERS", "orders"),
        ("http://host//orders", "orders"),
        ("host/orders", "orders"),
        ("sb://host/team", "team/jobs"),
        ("sb://host/NEWS/Subscriptions/ALL", "news/Subscriptions/all"),
    ],
)
def test_resources_are_read_regardless_of_scheme_case_and_slashes(keys: Keys, resource: str, path: str) -> None:
    assert keys.check(sign(resource), path).path == path


@pytest.mark.parametrize(
    ("write", "signed"),
    [
        (encoded, encoded),
        (lambda text: encoded(text).lower(), lambda text: encoded(text).lower()),  # as .NET and PHP encode
        (str, str),
        (str, encoded),
        (lambda text: quote(text, safe=":/"), lambda text: quote(text, safe=":/")),
    ],
)
def test_the_resource_may_be_encoded_in_every_way_clients_do(
    keys: Keys, write: Callable[[str], str], signed: Callable[[str], str]
) -> None:
    assert keys.check(sign("sb://host:1/team/jobs", write=write, signed=signed), "team/jobs").rights == ALL


def test_the_fields_may_be_in_any_order(keys: Keys) -> None:
    fields = sign("sb://h/orders").removeprefix("SharedAccessSignature ").split("&")
    assert keys.check("sharedaccesssignature " + "&".join(reversed(fields)), "orders").rights == ALL


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (sign("sb://h/orders", expiry=1000), r"ExpiredToken.*1970-01-01 00:16:40Z"),
        (sign("sb://h/orders", expiry=-5), "MalformedToken.*number of seconds"),
        (sign("sb://h/orders", expiry="soon"), "MalformedToken.*number of seconds"),
        (sign("sb://h/orders", expiry="²"), "MalformedToken.*number of seconds"),
        ("SharedAccessSignature sr=sb%3A%2F%2Fh%2Forders", "MalformedToken.*no field 'sig'"),
        (sign("sb://h/orders").replace("&skn=RootManageSharedAccessKey", ""), "no field 'skn'"),
        ("SharedAccessSignature ", "no field 'sr'"),
        ("eyJhbGciOi.eyJhdWQiOi.c2ln", "JSON Web Token, which the local broker cannot check"),
        ("Bearer x", "Only shared access signatures"),
        ("", "Only shared access signatures"),
    ],
)
def test_other_tokens_are_refused_in_clear_words(keys: Keys, token: str, reason: str) -> None:
    with pytest.raises(Unauthorized, match=reason):
        keys.check(token, "orders")


def test_a_token_may_last_longer_than_calendars(keys: Keys) -> None:
    assert keys.check(sign("sb://h/orders", expiry="9" * 400), "orders").expires_at == float("inf")


def test_the_name_of_a_policy_and_its_key_open_what_it_is_for(keys: Keys) -> None:
    assert keys.login(ROOT, "local") == [Access("", ALL)]
    assert keys.login("sender", "s2") == [Access("orders", frozenset({Right.SEND}))]
    assert keys.login("reader", "r1") == [Access("news", frozenset({Right.LISTEN}))]
    for name, key in (("sender", "r1"), ("nobody", "local"), (ROOT, ""), ("", "")):
        with pytest.raises(Unauthorized, match="no shared access policy"):
            keys.login(name, key)


def test_policies_of_an_entity_that_is_created_later_count_from_then_on(keys: Keys, namespace: Namespace) -> None:
    token = sign("sb://h/late", "k", name="own")
    with pytest.raises(Unauthorized):
        keys.check(token, "late")
    namespace.create_queue("late", QueueOptions(access=(AccessRule("own", ("k",)),)))
    assert keys.check(token, "late").rights == ALL


@pytest.mark.parametrize(
    ("granted", "path", "expected"),
    [
        ("orders", "Orders/$DeadLetterQueue", True),
        ("ORDERS", "orders", True),
        ("", "orders", True),
        ("orders", "orders-2", False),
        ("orders/$DeadLetterQueue", "orders", False),
        ("orders", "", False),
    ],
)
def test_what_is_granted_opens_itself_and_what_is_below_it(granted: str, path: str, expected: bool) -> None:
    assert covers(granted, path) is expected


def test_the_path_in_a_uri_is_what_follows_the_host() -> None:
    assert path_of("sb://host:1/a/b/") == "a/b"
    assert path_of("sb://host") == path_of("sb://host/") == path_of("host") == ""
    assert path_of("sb://host/a/$Management") == "a"


# --------------------------------------------------------------------------- what a connection was granted


def test_rights_are_those_of_all_tokens_that_cover_a_path() -> None:
    grants = Grants(ManualClock(NOW))
    grants.add(Access("orders", SEND, 2000))
    grants.add(Access("", LISTEN, 3000))
    assert grants.allow("orders", SEND)
    assert grants.allow("orders", LISTEN)
    assert not grants.allow("other", SEND)


def test_a_newer_token_for_a_path_replaces_the_older() -> None:
    grants = Grants(ManualClock(NOW))
    grants.add(Access("orders", ANY, 2000))
    grants.add(Access("ORDERS", LISTEN, 3000))
    assert not grants.allow("orders", SEND)
    assert grants.next_expiry == 3000


def test_an_expired_token_grants_nothing() -> None:
    clock = ManualClock(NOW)
    grants = Grants(clock)
    grants.add(Access("a", ANY, 1500))
    grants.add(Access("b", ANY, 2500))
    assert not grants.expire()
    clock.now = 1500
    assert grants.expire()
    assert not grants.allow("a", ANY)
    assert grants.allow("b", ANY)
    assert grants.next_expiry == 2500


def test_a_connection_has_at_most_a_thousand_tokens() -> None:
    grants = Grants(ManualClock(NOW))
    for number in range(1000):
        grants.add(Access(f"q{number}", ANY, 2000))
    with pytest.raises(QuotaExceeded, match="1000 tokens per connection"):
        grants.add(Access("one-more", ANY, 2000))
    grants.add(Access("Q7", ANY, 3000))


def test_a_refusal_says_which_claims_would_do() -> None:
    grants = Grants(ManualClock(NOW))
    with pytest.raises(Unauthorized, match=r"'Send' claim\(s\) are required .* Resource: 'q'. No token was shown"):
        grants.require("q", SEND)
    grants.add(Access("q", LISTEN))
    with pytest.raises(Unauthorized, match=r"Resource: 'q'.$"):
        grants.require("q", SEND)
    with pytest.raises(Unauthorized, match="'Send' or 'Listen' or 'Manage'"):
        grants.require("p", ANY)
