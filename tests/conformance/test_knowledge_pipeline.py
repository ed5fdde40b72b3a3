"""The knowledge side over real HTTP: the embedding adapter against `local/llm`, and from a file in the lake to a
passage in a message, through the same `build` functions that the workers use."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from services.indexer.build import build as build_indexer
from services.indexer.build import build_reconciler, open_lake
from services.indexer.events import read_events
from services.indexer.handler import Indexer
from services.indexer.lakes.port import Lake
from services.indexer.settings import IndexerSettings
from services.indexer.sources import Sources
from services.indexer.storage_event import BlobChanged, Change
from services.retriever.handler import Retriever
from services.retriever.main import build as build_retriever
from services.retriever.settings import RetrieverSettings
from shared.budget.rules import Amount
from shared.budget.tenant import Refusal
from shared.contracts.generate import Candidate, GenerateAnswer
from shared.contracts.outcome import Code, ModelCall, RequestOutcome
from shared.contracts.request import ReplyTo, Request
from shared.contracts.retrieve import RetrievePassages
from shared.embeddings.openai import OpenAIEmbedder
from shared.errors import SettingsError, TryLater, Unprocessable
from shared.llm.client import make_client
from shared.llm.deployments import Deployment
from shared.pacing.pacing import Pacing
from shared.redis import FailFastRedis
from shared.telemetry.metrics import make

EXAMPLE = Path(__file__).parents[2] / "examples/onboarding"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(module: str, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    port = _free_port()
    with subprocess.Popen([sys.executable, "-m", module, "--port", str(port), *arguments]) as process:
        yield f"http://127.0.0.1:{port}", process
        process.terminate()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(6000):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=1).status_code == HTTPStatus.OK:
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
    raise AssertionError(f"{url} does not answer (ended: {process.poll()})")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Run the laptop's model and vector store, started side by side."""
    data = str(tmp_path_factory.mktemp("vectors"))
    with _running("local.llm") as (models, first), _running("local.vectors", "--data", data) as (store, second):
        _wait_for(f"{models}/health", first)
        _wait_for(store, second)
        yield models, store


@pytest.fixture
def models(servers: tuple[str, str]) -> str:
    """Name the laptop's model."""
    return servers[0]


@pytest.fixture
def store(servers: tuple[str, str]) -> str:
    """Name the laptop's vector store, emptied."""
    for collection in ("passages-handbook", "documents"):
        httpx.delete(f"{servers[1]}/collections/{collection}", timeout=300)
    return servers[1]


@contextlib.contextmanager
def _fault(models: str, **rule: object) -> Iterator[None]:
    httpx.post(f"{models}/control/faults", json=[rule], timeout=300).raise_for_status()
    try:
        yield
    finally:
        httpx.delete(f"{models}/control/faults", timeout=300).raise_for_status()


@contextlib.asynccontextmanager
async def _embedder(models: str, provider: str, seconds: float = 5) -> AsyncIterator[OpenAIEmbedder]:
    """Make the adapter as the workers do."""
    deployment = Deployment.model_validate(
        {
            "name": "e",
            "provider": provider,
            "endpoint": models if provider == "azure" else f"{models}/v1",
            **({"api_version": "2024-10-21"} if provider == "azure" else {}),
            "model": "text-embedding-3-small",
            "kind": "embedding",
            "region": "here",
            "context_window": 8191,
            "dimensions": 256,
            "key_env": "KEY",
        }
    )
    client = make_client(deployment, timeout=timedelta(seconds=seconds), environment={"KEY": "k"})
    yield OpenAIEmbedder(client, deployment)
    await client.close()


@pytest.fixture(params=["azure", "compatible"])
async def embedder(request: pytest.FixtureRequest, models: str) -> AsyncIterator[OpenAIEmbedder]:
    """Give the adapter in both dialects."""
    async with _embedder(models, request.param) as made:
        yield made


class TestEmbedder:
    async def test_texts_become_vectors_in_their_order(self, embedder: OpenAIEmbedder) -> None:
        texts = ["leave", "travel", "leave"]
        embedded = await embedder.embed(texts)
        leave, travel, again = embedded.vectors
        assert len(leave) == len(travel) == 256
        assert leave == again != travel
        assert embedded.tokens is not None
        assert embedded.tokens > 0

    @pytest.mark.parametrize(
        ("fault", "after"),
        [
            ({"status": 429, "retry_after": 1.5}, 1.5),
            ({"status": 500}, 0),
            ({"status": 503}, 0),
            ({"malformed": True}, 0),
        ],
    )
    async def test_a_busy_or_failing_model_means_try_later(
        self, embedder: OpenAIEmbedder, models: str, fault: dict[str, object], after: float
    ) -> None:
        with _fault(models, kind="embeddings", times=1, **fault), pytest.raises(TryLater) as raised:
            await embedder.embed(["leave"])
        assert raised.value.after == timedelta(seconds=after)
        assert len((await embedder.embed(["leave"])).vectors) == 1

    async def test_a_call_to_a_model_that_hangs_times_out(self, models: str) -> None:
        async with _embedder(models, "azure", seconds=0.3) as impatient:
            with _fault(models, kind="embeddings", hang=True), pytest.raises(TryLater):
                await impatient.embed(["leave"])

    async def test_a_refusal_means_that_no_retry_helps(self, embedder: OpenAIEmbedder, models: str) -> None:
        with _fault(models, kind="embeddings", status=400), pytest.raises(Unprocessable):
            await embedder.embed(["leave"])


class Caches:
    """Stands in for Redis: an epoch, moved on by every invalidation."""

    def __init__(self) -> None:
        self.now = 0

    async def epoch(self, tenant: str, collection: str) -> int | None:
        return self.now

    async def invalidate(self, tenant: str, collection: str, path: str, version: int) -> None:
        self.now += 1


class Free:
    """A budget that nothing is taken from."""

    async def begin(
        self, request: Request, name: str, worst: Amount, lasts: timedelta, *, keep_estimate: bool = False
    ) -> Refusal | None:
        return None

    async def settle(self, request: Request, name: str, call: ModelCall, used: Amount) -> None:
        """Spend nothing."""

    async def give_back(self, request: Request, call: str = "") -> Sequence[ModelCall]:
        return []


class Knowing:
    """A lake of its own, an indexer and a retriever."""

    def __init__(self, lake: Path, indexer: Indexer, retriever: Retriever, settings: IndexerSettings) -> None:
        self.lake, self.indexer, self.retriever, self.settings = lake, indexer, retriever, settings

    async def index(self, *paths: str, change: Change = Change.WRITTEN) -> None:
        for path in paths:
            await self.indexer.handle([BlobChanged(change=change, container="handbook", path=path)])

    async def ask(self, question: str, *groups: str) -> tuple[Candidate, ...]:
        now = datetime.now(UTC)
        request = Request(
            request_id="r1",
            tenant="tessolund",
            caller="app",
            groups=groups or ("employees",),
            use_case="onboarding",
            question=question,
            accepted_at=now,
            answer_by=now + timedelta(seconds=60),
            correlation_id="c",
            reply_to=ReplyTo(queue="answers", session="s"),
        )
        [out] = await self.retriever.handle(RetrievePassages(request=request))
        if isinstance(out.message, RequestOutcome):
            assert out.message.code is Code.NOT_IN_DOCUMENTS
            return ()
        assert isinstance(out.message, GenerateAnswer)
        return out.message.candidates


def lake_of(settings: IndexerSettings) -> Lake:
    """The lake that the example's configuration reads."""
    return open_lake(settings, Sources.read(settings.config / "sources.yaml"))


@pytest.fixture
async def knowing(
    models: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis: FailFastRedis
) -> AsyncIterator[Knowing]:
    """Plug both services together on an empty lake, with the example's configuration."""
    monkeypatch.setenv("RAGBUS_MODEL_ENDPOINT", models)
    monkeypatch.setenv("RAGBUS_MODEL_KEY", "k")
    lake = tmp_path / "handbook"
    lake.mkdir()
    common = {"servicebus_connection_string": "x", "config": EXAMPLE, "qdrant_url": store}
    settings = IndexerSettings.model_validate({**common, "lake_folder": lake})
    caches, pacing = Caches(), Pacing(redis)
    retrieving = RetrieverSettings.model_validate(common)
    async with (
        build_indexer(settings, lake=lake_of(settings), evictor=caches, metrics=make(), pacing=pacing) as indexer,
        build_retriever(retrieving, epochs=caches, budget=Free(), pacing=pacing) as retriever,
    ):
        yield Knowing(lake, indexer, retriever, settings)


class TestPipeline:
    async def test_documents_of_the_lake_are_found(self, knowing: Knowing) -> None:
        paths = ["remote-work.md", "travel-policy.pdf", "expenses-2026.docx", "it-onboarding.html", "glossary.txt"]
        for path in paths:
            shutil.copy(EXAMPLE / "handbook" / path, knowing.lake / path)
        await knowing.index(*paths)
        best, *_ = await knowing.ask("What are the core hours for remote workers?")
        assert (best.path, best.section, best.version) == ("remote-work.md", "3. Hours and reachability", 1)
        text = (knowing.lake / "remote-work.md").read_text()
        assert best.text == text[best.start : best.end]
        hotels, *_ = await knowing.ask("hotel limit per night in Norway")
        assert hotels.path == "travel-policy.pdf"
        assert hotels.page in (1, 2)
        receipts, *_ = await knowing.ask("From which amount is a receipt required?")
        assert receipts.path == "expenses-2026.docx"

    async def test_an_edit_and_a_deletion_take_effect_at_once(self, knowing: Knowing) -> None:
        file = knowing.lake / "a.md"
        file.write_text("# Parking\n\nParking costs 10 euro.")
        await knowing.index("a.md")
        file.write_text("# Parking\n\nParking costs 20 euro.")
        await knowing.index("a.md")
        [only] = await knowing.ask("What does parking cost?")
        assert (only.text, only.version) == ("Parking costs 20 euro.", 2)
        file.unlink()
        await knowing.index("a.md", change=Change.DELETED)
        assert await knowing.ask("What does parking cost?") == ()

    async def test_a_prefix_for_managers_is_for_managers_only(self, knowing: Knowing) -> None:
        (knowing.lake / "managers").mkdir()
        (knowing.lake / "managers" / "pay.md").write_text("# Pay\n\nBand G5 is secret.")
        await knowing.index("managers/pay.md")
        assert await knowing.ask("What is band G5?") == ()
        assert len(await knowing.ask("What is band G5?", "managers")) == 1

    async def test_a_renamed_folder_moves_with_everything_in_it(self, knowing: Knowing) -> None:
        for name in ("one", "two"):
            file = knowing.lake / "old" / f"{name}.md"
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"# {name}\n\nParking costs {name} euro.")
            await knowing.index(f"old/{name}.md")
        (knowing.lake / "old").rename(knowing.lake / "new")
        url = "https://acct.dfs.core.windows.net/handbook/old"
        event = {
            "specversion": "1.0",
            "id": "1",
            "source": "s",
            "type": "Microsoft.Storage.DirectoryRenamed",
            "subject": "/blobServices/default/containers/handbook/blobs/new",
            "data": {"api": "RenameDirectory", "sourceUrl": url},
        }
        await knowing.indexer.handle(read_events(json.dumps(event).encode()))
        assert {each.path for each in await knowing.ask("What does parking cost?")} == {"new/one.md", "new/two.md"}

    async def test_a_reconcile_fills_an_empty_index_and_then_finds_nothing(self, knowing: Knowing) -> None:
        (knowing.lake / "a.md").write_text("# Parking\n\nParking costs 10 euro.")
        (knowing.lake / "b.md").write_text("# Pay\n\nPay day is the 25th.")
        async with build_reconciler(knowing.settings) as reconciler:
            for body in await reconciler.events():
                await knowing.indexer.handle(read_events(body))
            assert await reconciler.findings() == []
        assert len(await knowing.ask("parking")) == 2

    async def test_an_unknown_deployment_is_named(self, knowing: Knowing, redis: FailFastRedis) -> None:
        wrong = knowing.settings.model_copy(update={"embedding_deployment": "other"})
        with pytest.raises(SettingsError, match="no embedding deployment is called 'other'"):
            async with build_indexer(
                wrong, lake=lake_of(wrong), evictor=Caches(), metrics=make(), pacing=Pacing(redis)
            ):
                pass
