"""Who a queue or a key belongs to, and which callers.yaml is refused."""

from pathlib import Path

import pytest

from shared.access.callers import Caller, Callers, hash_key
from shared.contracts.queues import CORE, OUTCOMES
from shared.errors import SettingsError

KEY, OTHER_KEY = "k-1", "k-2"
FILE = f"""
tenants: {{larkfield: {{tokens_per_minute: 60000}}, tessolund: {{tokens_per_minute: 7}}}}
callers:
  - {{name: welcome-app, tenant: larkfield, use_cases: [onboarding], queue: ask, reply_queues: [answers, answers-2],
     api_keys: ["{hash_key(KEY)}", "{hash_key(OTHER_KEY)}"]}}
  - {{name: hr-portal, tenant: tessolund, queue: ask-hr, reply_queues: [answers-hr]}}
  - {{name: web, tenant: tessolund, api_keys: ["{hash_key("k-3")}"]}}
"""


def read(tmp_path: Path, content: str = FILE) -> Callers:
    file = tmp_path / "callers.yaml"
    file.write_text(content)
    return Callers.read(file)


def name_of(caller: Caller | None) -> str | None:
    return None if caller is None else caller.name


def test_an_ask_queue_belongs_to_its_caller_and_a_reply_queue_is_none(tmp_path: Path) -> None:
    callers = read(tmp_path)
    found = {queue: name_of(callers.at_queue(queue)) for queue in ("ask", "ask-hr", "answers", "")}
    assert found == {"ask": "welcome-app", "ask-hr": "hr-portal", "answers": None, "": None}
    assert list(callers.ingresses()) == ["ask", "ask-hr"]
    assert list(callers.reply_queues()) == ["answers", "answers-2", "answers-hr"]


def test_each_key_finds_its_caller_and_no_other_text_does(tmp_path: Path) -> None:
    callers = read(tmp_path)
    assert [name_of(callers.with_key(key)) for key in (KEY, OTHER_KEY, "k-3")] == ["welcome-app", "welcome-app", "web"]
    for wrong in ("", "k-4", hash_key(KEY), hash_key(KEY).removeprefix("sha256:"), f"{KEY} ", KEY.upper()):
        assert callers.with_key(wrong) is None


def test_a_key_is_stored_as_its_sha256() -> None:
    # The digest of FIPS 180-2 for "abc".
    assert hash_key("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("name: hr-portal", "name: welcome-app"), "two callers have the same name: welcome-app"),
        (("queue: ask-hr", "queue: ASK"), "two callers have the same queue: ask"),
        (("[answers-hr]", "[answers]"), "two callers have the same queue: answers"),
        (("[answers-hr]", "[ask-hr]"), "two callers have the same queue: ask-hr"),
        ((hash_key("k-3"), hash_key(KEY)), "two callers have the same api key: sha256:"),
        (("tenant: tessolund, queue", "tenant: unknown, queue"), "hr-portal: tenant unknown is not under tenants"),
        ((", reply_queues: [answers-hr]", ""), "hr-portal has a queue but no reply_queues: name at least one"),
        (("[answers-hr]", f"[{OUTCOMES}]"), f"hr-portal: {OUTCOMES} is the gateway's own queue, not a reply queue"),
        ((hash_key("k-3"), "k-3"), "web: write api_keys as sha256:<64 hex digits in lower case>, never in the clear"),
        ((hash_key("k-3"), hash_key("k-3").upper()), "never in the clear"),
        ((hash_key("k-3"), f"{hash_key('k-3')}0"), "never in the clear"),
        (("tokens_per_minute: 7", "tokens_per_minute: 0"), "must be more than 0, not 0"),
        (("{tokens_per_minute: 7}", "{}"), "a tenant needs tokens_per_minute or a budget"),
        (("tokens_per_minute: 7", "tokens_per_minute: 7, budget: {tokens: {minute: 7}}"), "are the same limit"),
        (("tokens_per_minute: 7", "budget: {tokens: {hour: 7}}"), "no such key"),
        (("tokens_per_minute: 7", "budget: {usd: {day: 0.0000001}}"), "decimal places"),
        (("tokens_per_minute: 7", "budget: {usd: {day: -1}}"), "more than 0"),
        (("tokens_per_minute: 7", "budget: {usd: {day: 100001}}"), "100000"),
        (("use_cases:", "usecases:"), "no such key; did you mean use_cases?"),
        (("[answers-hr]", "[answers-hr/$DeadLetterQueue]"), "reply_queues"),
    ],
)
def test_a_file_that_gives_wrong_rights_is_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert FILE.count(change[0]) == 1
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, FILE.replace(*change))
    assert says in str(refused.value)
    assert "callers.yaml:" in str(refused.value)


@pytest.mark.parametrize("queue", [queue.name for queue in CORE])
def test_an_internal_queue_is_neither_asked_on_nor_answered_on(tmp_path: Path, queue: str) -> None:
    for there in ("queue: ask-hr", "[answers-hr]"):
        ours = there.replace("ask-hr", queue.upper()).replace("answers-hr", queue.upper())
        with pytest.raises(SettingsError, match=r"hr-portal: .* are internal queues, choose other names"):
            read(tmp_path, FILE.replace(there, ours))
