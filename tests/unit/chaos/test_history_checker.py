"""The checker of histories: a clean one passes, and each way to break the guarantee is found and named."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.history import (
    SLACK,
    Asked,
    History,
    Interruption,
    Paid,
    Replied,
    Sent,
    check,
    extra_calls,
    messages,
    outcomes,
)

BEGAN = 1_000.0
LOCKER = Asked(
    request_id="r1",
    message_id="m1",
    caller="welcome-app",
    question="What is the locker code?",
    reply_queue="answers",
    session="s1",
    deadline=BEGAN + 60,
    expects=("LK1234",),
)
VAULT = replace(
    LOCKER,
    request_id="r2",
    message_id="m2",
    caller="hr-portal",
    question="What is the vault code?",
    reply_queue="answers-hr",
    session="s2",
    expects=("VT9999",),
)
READERS = {"lockers.md": frozenset({"welcome-app", "hr-portal"}), "vaults.md": frozenset({"hr-portal"})}
SECRETS = {"LK1234": frozenset({"welcome-app", "hr-portal"}), "VT9999": frozenset({"hr-portal"})}


def a_reply(asked: Asked = LOCKER, sequence: int = 1, **changes: Any) -> Replied:
    """The reply that `asked` should get."""
    given: dict[str, Any] = {
        "queue": asked.reply_queue,
        "session": asked.session,
        "sequence": sequence,
        "message_id": f"{asked.request_id}/reply",
        "request_id": asked.request_id,
        "correlation_id": asked.message_id,
        "outcome": "answered",
        "code": "Ok",
        "text": f"It is {asked.expects[0]}. [1]",
        "documents": ("lockers.md",),
        "quotes": (f"The code is {asked.expects[0]}.",),
        "at": BEGAN + 2,
        **changes,
    }
    return Replied(**given)


def a_history(*replied: Replied, **changes: Any) -> History:
    """Two requests; unless something else is said, both were answered and paid for once."""
    given: dict[str, Any] = {
        "asked": (LOCKER, VAULT),
        "replied": replied or (a_reply(), a_reply(VAULT)),
        "paid": (Paid(LOCKER.question, BEGAN + 1), Paid(VAULT.question, BEGAN + 1)),
        "readers": READERS,
        "secrets": SECRETS,
        **changes,
    }
    return History(**given)


def the_violation(history: History) -> str:
    [violation] = check(history)
    return violation


def test_a_clean_history_has_no_violations() -> None:
    assert check(a_history()) == []


def test_an_accepted_request_without_an_outcome_is_found() -> None:
    assert the_violation(a_history(a_reply())) == "request r2 (hr-portal, message m2) was accepted and has no outcome"


def test_a_request_of_which_the_sender_knows_nothing_may_have_an_outcome_or_none() -> None:
    maybe = (LOCKER, replace(VAULT, sent=Sent.UNKNOWN))
    assert check(a_history(a_reply(), asked=maybe)) == []
    assert check(a_history(a_reply(), a_reply(VAULT), asked=maybe)) == []


def test_a_request_that_the_broker_refused_may_have_none() -> None:
    refused = (LOCKER, replace(VAULT, sent=Sent.REFUSED))
    assert check(a_history(a_reply(), asked=refused)) == []
    assert "was refused by the broker, yet has an outcome" in the_violation(a_history(asked=refused))


def test_a_second_outcome_is_found_also_when_it_says_the_same() -> None:
    found = the_violation(a_history(a_reply(), a_reply(sequence=2), a_reply(VAULT)))
    assert found.startswith("request r1 (welcome-app, message m1) has 2 outcomes")


def test_a_message_that_was_received_twice_is_one_outcome() -> None:
    twice = (a_reply(), a_reply(at=BEGAN + 9), a_reply(VAULT))
    assert check(a_history(*twice)) == []
    assert messages(twice) == [twice[0], twice[2]]


def test_equal_sequence_numbers_on_two_queues_are_two_messages() -> None:
    assert len(messages([a_reply(sequence=7), a_reply(VAULT, sequence=7)])) == 2


def test_an_outcome_without_a_request_is_found() -> None:
    stray = a_reply(sequence=2, request_id="r9", message_id="r9/reply", correlation_id="m9")
    assert the_violation(a_history(a_reply(), stray, a_reply(VAULT))).startswith("an outcome without a request")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queue": "answers-hr"}, "went to answers-hr, which is not its caller's"),
        ({"session": "s9"}, "is in session 's9', not in 's1'"),
        ({"correlation_id": "m2"}, "answers 'm2'"),
        ({"message_id": "b7e2"}, "by which no duplicate is detected"),
        ({"documents": ()}, "was answered from nothing"),
        ({"documents": ("gone.md",)}, "cites gone.md, which is not in the lake"),
        ({"documents": ("vaults.md",)}, "cites vaults.md, which only hr-portal may read"),
        ({"text": "It is LK7777."}, "its answer belongs to another question"),
        ({"text": "It is LK1234, and the vault's is VT9999."}, "was told 'VT9999', which only hr-portal may know"),
        ({"quotes": ("The vault's is VT9999.",)}, "was told 'VT9999', which only hr-portal may know"),
        ({"outcome": "expired", "text": "", "documents": ()}, "was told to have expired 58.0 s before its deadline"),
    ],
)
def test_a_wrong_reply_is_found(changes: dict[str, Any], said: str) -> None:
    found = the_violation(a_history(a_reply(**changes), a_reply(VAULT, sequence=2)))
    assert found.startswith("request r1 (welcome-app, message m1): ")
    assert said in found


def test_a_secret_is_found_in_any_outcome() -> None:
    told = a_reply(outcome="failed", text="no VT9999", documents=())
    assert "was told 'VT9999'" in the_violation(a_history(told, a_reply(VAULT)))


@pytest.mark.parametrize("outcome", ["no_answer", "refused", "failed", "cancelled"])
def test_other_outcomes_need_neither_citations_nor_words(outcome: str) -> None:
    assert check(a_history(a_reply(outcome=outcome, text="", documents=()), a_reply(VAULT))) == []


def test_expired_after_the_deadline_is_no_violation() -> None:
    late = a_reply(outcome="expired", text="", documents=(), at=LOCKER.deadline + 2)
    assert check(a_history(late, a_reply(VAULT))) == []


def test_a_request_may_be_given_up_when_no_further_attempt_fits() -> None:
    given_up = a_reply(outcome="expired", text="", documents=(), at=LOCKER.deadline - 2)
    assert check(a_history(given_up, a_reply(VAULT), early=3.0)) == []
    assert check(a_history(given_up, a_reply(VAULT), early=1.0)) != []


def test_a_call_paid_twice_for_no_reason_is_found() -> None:
    paid = (Paid(LOCKER.question, BEGAN + 1), Paid(LOCKER.question, BEGAN + 8))
    found = the_violation(a_history(paid=paid))
    assert found.endswith("the model was paid 2 times, and 0 of these calls were interrupted")


def test_a_crash_explains_one_more_call_and_not_two() -> None:
    crash = (Interruption("killed", BEGAN + 2),)
    twice = (Paid(LOCKER.question, BEGAN + 1), Paid(LOCKER.question, BEGAN + 80))
    assert check(a_history(paid=twice, interruptions=crash)) == []
    assert check(a_history(paid=(*twice, Paid(LOCKER.question, BEGAN + 90)), interruptions=crash)) != []


def test_a_crash_between_sending_work_anew_and_settling_the_old_explains_one_call_of_each_message() -> None:
    crash = (Interruption("killed", BEGAN + 2),)
    thrice = tuple(Paid(LOCKER.question, BEGAN + at) for at in (1, 80, 90))
    copies = {LOCKER.question: 1}
    assert check(a_history(paid=thrice, interruptions=crash, copies=copies)) == []
    assert check(a_history(paid=(*thrice, thrice[2]), interruptions=crash, copies=copies)) != []
    assert check(a_history(paid=thrice, interruptions=crash, copies={VAULT.question: 1})) != []


def test_a_crash_of_another_worker_explains_nothing() -> None:
    paid = tuple(Paid(LOCKER.question, BEGAN + at, "generator-1") for at in (1, 8))
    assert check(a_history(paid=paid, interruptions=[Interruption("killed", BEGAN + 2, worker="generator-1")])) == []
    assert check(a_history(paid=paid, interruptions=[Interruption("killed", BEGAN + 2, worker="generator-2")])) != []


@pytest.mark.parametrize(
    ("interruption", "explains"),
    [
        (Interruption("killed", BEGAN - SLACK - 1), False),
        (Interruption("killed", BEGAN - SLACK + 1), True),
        (Interruption("away", BEGAN - 20, BEGAN + 20), True),
        (Interruption("killed", BEGAN + 5 + SLACK - 1), True),
        (Interruption("killed", BEGAN + 5 + SLACK + 1), False),
    ],
)
def test_only_what_broke_while_the_call_was_being_used_explains_another(
    interruption: Interruption, explains: bool
) -> None:
    paid = (Paid(LOCKER.question, BEGAN), Paid(LOCKER.question, BEGAN + 500))
    assert (check(a_history(paid=paid, interruptions=[interruption], takes=5.0)) == []) is explains


def test_callers_that_ask_the_same_question_may_each_be_charged_for_it() -> None:
    same = replace(VAULT, question=LOCKER.question, expects=LOCKER.expects)
    replied = (a_reply(), a_reply(same, text="It is LK1234."))
    twice = (Paid(LOCKER.question, BEGAN + 1), Paid(LOCKER.question, BEGAN + 2))
    assert check(a_history(*replied, asked=(LOCKER, same), paid=twice)) == []
    assert check(a_history(*replied, asked=(LOCKER, same), paid=(*twice, twice[0]))) != []


def test_a_call_for_a_question_without_a_request_is_found() -> None:
    assert "a question that was not asked" in the_violation(a_history(paid=(Paid("What?", BEGAN),)))


def test_calls_beyond_what_the_crashes_allow_are_found_in_the_sum() -> None:
    paid = tuple(Paid(question, BEGAN + 1) for question in (LOCKER.question, VAULT.question) for _ in range(2))
    history = a_history(paid=paid, interruptions=[Interruption("killed", BEGAN + 1)])
    assert extra_calls(history) == 2
    assert check(replace(history, extra_calls=2)) == []
    assert the_violation(replace(history, extra_calls=1)).startswith("2 model calls beyond one per request, and 1")


def test_fewer_calls_than_requests_are_no_violation() -> None:
    assert check(a_history(paid=())) == []


def test_outcomes_are_counted_by_request() -> None:
    expired = a_reply(outcome="expired", text="", documents=(), at=LOCKER.deadline + 2)
    assert outcomes(a_history(expired, expired)) == {"expired": 1, "none": 1}


def test_a_reply_is_read_from_the_contract() -> None:
    body = {
        "request_id": "r1",
        "correlation_id": "m1",
        "outcome": "answered",
        "code": "Ok",
        "text": "It is LK1234. [1]",
        "citations": [{"path": "lockers.md", "quote": "The code is LK1234."}],
    }
    read = Replied.of("answers", body, session="s1", sequence=1, message_id="r1/reply", at=BEGAN + 2)
    assert read == a_reply()


@given(lost=st.sets(st.integers(0, 19)), doubled=st.sets(st.integers(0, 19)))
def test_every_lost_and_every_doubled_request_is_named(lost: set[int], doubled: set[int]) -> None:
    asked = [replace(LOCKER, request_id=f"r{n}", message_id=f"m{n}", question=f"Which? ({n})") for n in range(20)]
    replied = [a_reply(one, sequence=n) for n, one in enumerate(asked) if n not in lost]
    replied += [a_reply(one, sequence=100 + n) for n, one in enumerate(asked) if n in doubled - lost]
    found = check(History(asked, replied))
    assert {violation.split()[1] for violation in found} == {f"r{n}" for n in lost | doubled}
    assert len(found) == len(lost | doubled)
