"""What a chaos run says of itself: what it reads from the logs, and when it is not clean."""

import json
from pathlib import Path
from typing import Any

from tests.chaos.history import Asked, History, Interruption, Replied
from tests.chaos.plugs import Pulled
from tests.chaos.report import Logs, Report, table

AT = "2026-03-02T09:00:00.500000Z"


def written(folder: Path, name: str, *events: dict[str, Any] | str) -> Path:
    """A worker's log."""
    file = folder / f"{name}.log"
    file.write_text("".join(f"{event if isinstance(event, str) else json.dumps(event)}\n" for event in events))
    return file


def a_report(answered: int, expired: int, logs: Logs | None = None, **changes: Any) -> Report:
    """A run with these numbers of outcomes."""
    endings = ["answered"] * answered + ["expired"] * expired
    asked = [Asked(f"r{n}", f"m{n}", "app", f"Which? ({n})", "answers", "s", 0.0) for n in range(len(endings))]
    replied = [
        Replied("answers", "s", n, f"r{n}/reply", f"r{n}", f"m{n}", outcome, documents=("a.md",), at=1.0)
        for n, outcome in enumerate(endings)
    ]
    given: dict[str, Any] = {"duplicates": 0, "resent": 0, "seconds": 9.0, "leftovers": {}, "deaths": [], **changes}
    return Report(seed=7, history=History(asked, replied), pulled=Pulled(lasted=1.0), logs=logs or Logs(), **given)


def test_logs_tell_of_lost_locks_by_worker_and_time(tmp_path: Path) -> None:
    lost = {"event": "delivery.lock_lost", "timestamp": AT, "detail": "gone"}
    logs = Logs.read([written(tmp_path, "generator-2", lost, {"event": "delivery.retried"})])
    assert logs.lost == [Interruption("lock lost", 1772442000.5, worker="generator-2")]
    assert logs.said == {"locks lost": 1, "retried later": 1}
    assert logs.bugs == []


def test_deliveries_are_counted_by_how_often_they_had_failed(tmp_path: Path) -> None:
    done = [{"event": "delivery.done", "delivery_count": count} for count in (0, 0, 3)]
    assert Logs.read([written(tmp_path, "gateway-1", *done)]).delivered == {0: 2, 3: 1}


def test_a_line_that_was_cut_by_a_kill_is_skipped(tmp_path: Path) -> None:
    file = written(tmp_path, "gateway-1", '{"event": "delivery.lo', "Traceback (most recent call last):", "[1]")
    assert Logs.read([file]) == Logs()


def test_a_bug_in_a_handler_makes_a_run_unclean(tmp_path: Path) -> None:
    crashed = {"event": "delivery.dead_lettered", "reason": "Crashed", "detail": "KeyError: 'x'"}
    expired = {"event": "delivery.dead_lettered", "reason": "DeadlineExceeded", "detail": "late"}
    logs = Logs.read([written(tmp_path, "retriever-1", crashed, expired)])
    assert a_report(10, 0, logs).violations() == ["retriever-1 met a bug: KeyError: 'x'"]


def test_a_worker_that_died_by_itself_makes_a_run_unclean() -> None:
    assert a_report(10, 0, deaths=["gateway-1 ended by itself"]).violations() == ["gateway-1 ended by itself"]


def test_many_expired_requests_make_a_run_unclean_since_lost_work_ends_so() -> None:
    assert a_report(95, 5).violations() == []
    assert a_report(94, 6).violations() == ["only 94.0% of the requests were answered; 95% should be"]


def test_the_table_names_the_seed_and_what_came_of_the_requests() -> None:
    shown = table(a_report(19, 1).rows())
    assert "| outcomes | answered 19, expired 1 (95.0% answered) |" in shown
    assert "| seed | 7 |" in shown
