"""Config.json: what is understood, and what is complained of in one line."""

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest

from local.broker.bus.queue import QueueOptions
from local.broker.config import EMULATOR_DEFAULTS, ConfigError, duration, load, read


def config(*queues: Any, **namespace: Any) -> dict[str, Any]:
    body = {"Name": "sbemulatorns", "Queues": list(queues), "Topics": []} | namespace
    return {"UserConfig": {"Namespaces": [body], "Logging": {"Type": "File"}}}


def queue(**properties: Any) -> dict[str, Any]:
    return {"Name": "q", "Properties": properties}


def test_every_property_is_read() -> None:
    given = queue(
        DeadLetteringOnMessageExpiration=True,
        DefaultMessageTimeToLive="PT1H",
        DuplicateDetectionHistoryTimeWindow="PT5M",
        ForwardDeadLetteredMessagesTo="dead",
        ForwardTo="",
        LockDuration="PT1M30S",
        MaxDeliveryCount=7,
        RequiresDuplicateDetection=True,
        RequiresSession=True,
    )
    assert read(config(given, {"Name": "dead"})) == {
        "q": QueueOptions(
            lock_duration=90,
            max_delivery_count=7,
            default_time_to_live=3600,
            dead_lettering_on_expiration=True,
            requires_session=True,
            duplicate_detection=True,
            duplicate_window=300,
            forward_to=None,
            forward_dead_letters_to="dead",
        ),
        "dead": EMULATOR_DEFAULTS,
    }


def test_what_is_left_out_is_the_emulators_default() -> None:
    options = read(config({"Name": "q"}))["q"]
    assert (options.lock_duration, options.max_delivery_count) == (60, 3)
    assert (options.default_time_to_live, options.duplicate_window) == (3600, 20)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT20S", 20),
        ("PT0.5S", 0.5),
        ("P1DT2H3M4S", 93784),
        ("P1Y2M", 365 * 86400 + 60 * 86400),
        ("P10675199DT2H48M5.4775807S", inf),
        ("P14D", 14 * 86400),
    ],
)
def test_durations_are_iso_8601(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "1M", "PT1", "P1H", "PT-1S", "pt1m", "P1DT"])
def test_other_durations_are_not(text: str) -> None:
    with pytest.raises(ConfigError, match="ISO 8601"):
        duration(text)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "the configuration: expected an object, found []"),
        ({}, "UserConfig is missing"),
        ({"UserConfig": {}}, "UserConfig.Namespaces is missing"),
        ({"UserConfig": {"Namespaces": 3}}, "UserConfig.Namespaces: expected a list, found 3"),
        (config("q"), "UserConfig.Namespaces[0].Queues[0]: expected an object"),
        (config({}), "Queues[0].Name is missing"),
        (config({"Name": "-q"}), "'-q' cannot be the name"),
        (config({"Name": "q"}, {"Name": "Q"}), "Queues[1].Name: there are two queues called 'Q'"),
        (config({"Name": "q", "Extra": 1}), "Queues[0].Extra: no such setting"),
        (config(queue(MaxDelivery=3)), "Properties.MaxDelivery: no such setting"),
        (config(queue(MaxDeliveryCount="3")), 'MaxDeliveryCount: expected a number, found "3"'),
        (config(queue(MaxDeliveryCount=True)), "MaxDeliveryCount: expected a number, found true"),
        (config(queue(MaxDeliveryCount=0)), "MaxDeliveryCount: expected at least 1, found 0"),
        (config(queue(RequiresSession="yes")), "RequiresSession: expected true or false"),
        (config(queue(LockDuration=60)), "LockDuration: expected an ISO 8601 duration such as PT1M, found 60"),
        (config(queue(LockDuration="PT0S")), "LockDuration: a duration must be longer"),
        (config(queue(ForwardTo="nowhere")), "queue 'q' forwards to 'nowhere', which is not configured"),
        (config(queue(ForwardDeadLetteredMessagesTo="Q")), "queue 'q' forwards to itself"),
        (config(Topics=[{"Name": "t"}]), "Topics: topics are not there yet"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(given: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(given)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_named_in_every_complaint(tmp_path: Path) -> None:
    path = tmp_path / "Config.json"
    for content, complaint in ((None, "No such file"), ("{", "not JSON"), ("{}", "UserConfig is missing")):
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert complaint in str(caught.value)


def test_a_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "Config.json"
    path.write_text(json.dumps(config(queue())), encoding="utf-8-sig")
    assert list(load(path)) == ["q"]
