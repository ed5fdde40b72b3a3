import json
from pathlib import Path

import pytest
from servicebus_local.config import read

from local.stack import recipe
from local.stack.broker_config import emulator_config
from local.stack.errors import CannotStart
from local.stack.folder import Folder
from local.stack.ports import HOST, free, usual
from local.stack.recipe import Addresses
from local.stack.redis import command
from local.stack.usage import cpu_seconds, resident
from shared.contracts.queues import DEAD, topology

HERE = Addresses(
    broker=1,
    admin=2,
    redis_url="redis://r",
    qdrant_url="http://q",
    llm_url="http://m",
    http={"gateway": 3},
    health={"gateway": 4},
)


def test_the_broker_gets_exactly_the_queues_of_the_topology() -> None:
    queues = topology(["ask", "ask-hr"], ["answers"])
    understood = read(json.loads(json.dumps(emulator_config(queues)))).queues
    assert list(understood) == [queue.name for queue in queues]
    for queue in queues:
        options = understood[queue.name]
        window = queue.duplicate_window
        assert options.lock_duration == queue.lock.total_seconds()
        assert options.default_time_to_live == queue.time_to_live.total_seconds()
        assert options.duplicate_detection is (window is not None)
        assert window is None or options.duplicate_window == window.total_seconds()
        assert options.requires_session is queue.sessions
        assert options.forward_dead_letters_to == queue.forward_dead_letters_to
        assert options.dead_lettering_on_expiration is queue.dead_letter_on_expiry
        assert options.max_delivery_count == queue.max_delivery_count
    assert understood[DEAD].duplicate_detection is False


def test_processes_of_one_service_are_numbered() -> None:
    assert recipe.names({"generator": 3, "gateway": 1, "indexer": 0}) == {
        "gateway": "gateway",
        "generator": "generator",
        "generator-2": "generator",
        "generator-3": "generator",
    }


def test_a_worker_gets_its_ports_and_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGBUS_SERVICEBUS_NAMESPACE", "prod.servicebus.windows.net")
    part = recipe.worker("gateway", "gateway", HERE, {"RAGBUS_GRACE": "1", "COLOUR": "blue"})
    assert part.environment["RAGBUS_HTTP_PORT"] == "3"
    assert part.environment["RAGBUS_HEALTH_PORT"] == "4"
    assert (part.environment["RAGBUS_GRACE"], part.environment["COLOUR"]) == ("1", "blue")
    assert "RAGBUS_SERVICEBUS_NAMESPACE" not in part.environment


def test_free_ports_differ() -> None:
    ports = free()
    taken = [next(ports) for _ in range(20)]
    assert len(set(taken)) == 20


def test_a_usual_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setitem(usual.__globals__["USUAL"], "redis", port)
        with pytest.raises(CannotStart, match=rf"port {port} \(redis\) is in use: .* RAGBUS_REDIS_URL="):
            usual(["redis"])


def test_state_is_written_whole_and_for_us_only(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new")
    folder.take()
    folder.write(folder.state, {"a": 1})
    folder.write(folder.state, {"a": 2})
    assert json.loads(folder.state.read_text()) == {"a": 2}
    assert folder.state.stat().st_mode & 0o077 == 0
    folder.release()
    assert not folder.state.exists()


def test_an_interrupted_copy_is_not_taken_for_the_lake(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    (documents / "deep").mkdir(parents=True)
    (documents / "deep" / "a.md").write_text("a")
    folder = Folder(tmp_path / "stack")
    (folder.path / "lake.part").mkdir(parents=True)
    (folder.path / "lake.part" / "half.md").write_text("h")
    folder.prepare(documents, reset=False)
    assert [path.name for path in folder.lake.rglob("*.md")] == ["a.md"]


def test_the_redis_server_is_one_of_this_machine_and_keeps_nothing(tmp_path: Path) -> None:
    words = command(7777, tmp_path)
    assert Path(words[0]).is_file()
    assert words[words.index("--bind") + 1] == HOST
    assert words[words.index("--save") + 1] == ""


def test_usage_of_a_process_that_is_gone_is_nothing() -> None:
    import os

    assert resident([os.getpid()]) > 1_000_000
    assert resident([2**22 + 1]) == 0
    assert cpu_seconds([2**22 + 1]) == 0


def test_a_folder_has_one_cache_secret_as_long_as_its_data_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def secret(name: str, *, reset: bool = False) -> str:
        folder = Folder(tmp_path / name)
        folder.take()
        folder.prepare(tmp_path / "none", reset=reset)
        folder.release()
        return recipe.common(HERE, tmp_path, folder)["RAGBUS_CACHE_SECRET"]

    first = secret("one")
    assert len(first) >= 32
    assert (tmp_path / "one/data/cache-secret").stat().st_mode & 0o777 == 0o600
    assert secret("one") == first
    assert secret("two") != first
    assert secret("one", reset=True) != first
    monkeypatch.setenv("RAGBUS_CACHE_SECRET", "that of another installation")
    assert secret("one") == "that of another installation"
