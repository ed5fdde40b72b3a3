"""--keys: which policies a file describes, and what is complained of in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topology import AccessRule, QueueOptions, Right, TopicDefinition, Topology
from servicebus_local.fields import ConfigError
from servicebus_local.policies import check_entities, load_policies, read_policies


def test_policies_are_read_by_the_entity_they_are_for() -> None:
    given = {
        "RootManageSharedAccessKey": "secret",
        "all": {"Keys": "one"},
        "sender": {"Keys": ["one", "two"], "Rights": ["Send"], "Entity": "/Orders/"},
        "worker": [
            {"Keys": ["three"], "Rights": ["Listen"], "Entity": "orders"},
            {"Keys": ["four"], "Rights": ["Listen", "Send", "Manage"], "Entity": "team/news"},
        ],
    }
    assert read_policies(given) == {
        "": (AccessRule("RootManageSharedAccessKey", ("secret",)), AccessRule("all", ("one",))),
        "orders": (
            AccessRule("sender", ("one", "two"), frozenset({Right.SEND})),
            AccessRule("worker", ("three",), frozenset({Right.LISTEN})),
        ),
        "team/news": (AccessRule("worker", ("four",)),),
    }
    assert read_policies({}) == {}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "the policies: expected an object, found []"),
        ({"p": 5}, "p: expected an object, found 5"),
        ({"p": {}}, "p.Keys is missing"),
        ({"p": {"Key": "k"}}, "p.Key: no such setting; there are Entity, Keys, Rights"),
        ({"p": {"Keys": []}}, "p.Keys: expected one key or two, found 0"),
        ({"p": {"Keys": ["1", "2", "3"]}}, "p.Keys: expected one key or two, found 3"),
        ({"p": {"Keys": [5]}}, "p.Keys[0]: expected a key, found 5"),
        ({"p": {"Keys": ""}}, "p.Keys[0]: a key cannot be empty"),
        ({"p": ""}, "p: a key cannot be empty"),
        ({"p": {"Keys": "k", "Rights": []}}, "p.Rights: expected some of Send, Listen, Manage, found none"),
        ({"p": {"Keys": "k", "Rights": ["Read"]}}, "p.Rights: expected some of Send, Listen, Manage, found 'Read'"),
        ({"p": {"Keys": "k", "Rights": "Send"}}, "p.Rights: expected a list"),
        ({"p": {"Keys": "k", "Rights": ["Manage", "Send"]}}, "a policy with Manage also needs Send and Listen"),
        ({"p": {"Keys": "k", "Entity": 5}}, "p.Entity: expected a string"),
        ({"p": {"Keys": "k", "Entity": "t/Subscriptions/s"}}, "p.Entity: subscriptions have no policies"),
        ({"p": [{"Keys": "k"}, {"Keys": "l"}]}, "p[1]: there are two policies called 'p' in one place"),
        ({f"p{n}": "k" for n in range(13)}, "p12: the namespace has more than 12 policies"),
    ],
)
def test_a_mistake_is_reported_with_its_place(given: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_policies(given)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_is_for_an_entity_that_is_there() -> None:
    topology = Topology({"Orders": QueueOptions()}, {"news": TopicDefinition()})
    namespace = Namespace(topology, Timers(ManualClock(0)))
    check_entities(read_policies({"a": "k", "b": {"Keys": "k", "Entity": "orders"}}), namespace)
    check_entities(read_policies({"b": {"Keys": "k", "Entity": "News"}}), namespace)
    with pytest.raises(ConfigError, match=r"b.Entity: there is no queue or topic called 'other'"):
        check_entities(read_policies({"b": {"Keys": "k", "Entity": "other"}}), namespace)


def test_a_file_is_named_in_every_complaint(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(ConfigError, match=r"keys\.json: No such file"):
        load_policies(path)
    path.write_text('{"p": 5}')
    with pytest.raises(ConfigError, match=r"keys\.json: p: expected an object"):
        load_policies(path)
    path.write_text(json.dumps({"p": "k"}) + " // a comment")
    assert load_policies(path) == {"": (AccessRule("p", ("k",)),)}
