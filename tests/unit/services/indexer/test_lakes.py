"""The adapters of the lake: they show the documents of their containers and nothing else."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError, ServiceRequestError
from hypothesis import given
from hypothesis import strategies as st

from services.indexer.lakes.azure_blob import AzureLake
from services.indexer.lakes.folder import FolderLake, _is_spelled
from services.indexer.lakes.port import Blob, Changed, Lake, Vanished, is_noise
from shared.errors import TryLater


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a folder that is a container, with something beside it that is none of our business."""
    folder = tmp_path / "handbook"
    (folder / "a").mkdir(parents=True)
    (folder / "leave.md").write_text("leave")
    (folder / "a" / "b c.md").write_text("b")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "draft.md~").write_text("x")
    (tmp_path / "secret.md").write_text("secret")
    (folder / "link.md").symlink_to(tmp_path / "secret.md")
    return folder


async def paths(lake: Lake, prefix: str = "") -> list[str]:
    return [blob.path async for blob in lake.blobs("handbook", prefix)]


async def test_a_folder_is_listed_without_what_is_hidden_unfinished_or_elsewhere(root: Path) -> None:
    lake = FolderLake({"handbook": root})
    assert await paths(lake) == ["a/b c.md", "leave.md"]
    assert await paths(lake, "a/") == ["a/b c.md"]
    assert [blob async for blob in lake.blobs("other")] == []


async def test_a_file_is_read_only_at_the_etag_of_its_head(root: Path) -> None:
    lake = FolderLake({"handbook": root})
    blob = await lake.head("handbook", "leave.md")
    assert blob
    assert (blob.size, blob.content_type) == (5, "text/markdown")
    assert await lake.read("handbook", "leave.md", blob.etag) == b"leave"
    (root / "leave.md").write_text("longer than before")
    with pytest.raises(Changed):
        await lake.read("handbook", "leave.md", blob.etag)
    (root / "leave.md").unlink()
    with pytest.raises(Vanished):
        await lake.read("handbook", "leave.md", blob.etag)
    assert await lake.head("handbook", "leave.md") is None


async def test_a_name_that_no_file_can_have_is_not_a_document(root: Path) -> None:
    # A blob's may have 1,024 characters, a file's 255 bytes; as a failure it would be tried again for a day.
    assert await FolderLake({"handbook": root}).head("handbook", "x" * 1_024) is None


async def test_a_file_replaced_by_one_of_the_same_size_and_time_has_another_etag(root: Path) -> None:
    lake = FolderLake({"handbook": root})
    before = await lake.head("handbook", "leave.md")
    status = (root / "leave.md").stat()
    (root / "new").write_text("lease")
    os.utime(root / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (root / "new").replace(root / "leave.md")
    after = await lake.head("handbook", "leave.md")
    assert before
    assert after
    assert before.etag != after.etag


@pytest.mark.parametrize(
    "path",
    ["../secret.md", "a/../../secret.md", "/etc/passwd", "link.md", "a", "", ".", ".git/config", "a/\0", "draft.md~"],
)
async def test_nothing_outside_of_the_folder_is_read(root: Path, path: str) -> None:
    lake = FolderLake({"handbook": root})
    assert await lake.head("handbook", path) is None
    with pytest.raises((Vanished, Changed, TryLater)):
        await lake.read("handbook", path, '"x"')


@pytest.mark.parametrize(
    "path",
    [
        "a//b c.md",
        "/leave.md",
        "leave.md/",
        "a/./b c.md",
        "inner.md",
        "inner/b c.md",
        "inner/deep.md",
        "chain.md",
        "circle.md",
        "circle.md/deep.md",
        "LEAVE.md",
        "A/b c.md",
        "cafe\u0301.md",
    ],
)
async def test_a_file_has_one_name(root: Path, path: str) -> None:
    """That of its real place: who may read it depends on where it is."""
    (root / "caf\u00e9.md").write_text("c")
    (root / "inner.md").symlink_to("a/b c.md")
    (root / "chain.md").symlink_to("inner.md")
    (root / "circle.md").symlink_to("circle.md")
    (root / "inner").symlink_to("a", target_is_directory=True)
    lake = FolderLake({"handbook": root})
    assert await lake.head("handbook", path) is None
    with pytest.raises((Vanished, Changed, TryLater)):
        await lake.read("handbook", path, '"x"')
    assert await paths(lake) == ["a/b c.md", "caf\u00e9.md", "leave.md"]


def test_a_path_in_another_spelling_than_the_file_system_s_is_not_a_document(root: Path) -> None:
    """Where a file system knows no case, the other spellings lead to the same file; here they lead nowhere."""
    assert _is_spelled(root, "a/b c.md")
    for path in ("A/b c.md", "a/B c.md", "LEAVE.md", "a /b c.md"):
        assert not _is_spelled(root, path)


async def test_a_file_that_becomes_a_link_is_no_longer_read(root: Path) -> None:
    lake = FolderLake({"handbook": root})
    blob = await lake.head("handbook", "leave.md")
    assert blob
    (root / "leave.md").rename(root / "a" / "leave.md")  # the same file, with the same etag
    (root / "leave.md").symlink_to("a/leave.md")
    with pytest.raises(Vanished):
        await lake.read("handbook", "leave.md", blob.etag)


@given(st.lists(st.sampled_from(["..", ".", "a", "leave.md", "/", "~", "", "secret.md", "handbook"]), max_size=6))
def test_no_path_leads_out_of_the_folder(steps: list[str]) -> None:
    lake = FolderLake({"handbook": Path("/")})
    inner = FolderLake({"handbook": Path("/usr")})
    file = inner._file("handbook", "/".join(steps))
    assert file is None or file.is_relative_to(Path("/usr").resolve())
    assert lake._file("other", "/".join(steps)) is None


async def test_a_folder_that_is_not_mounted_is_not_an_empty_folder(root: Path) -> None:
    lake = FolderLake({"handbook": root / "missing"})
    with pytest.raises(TryLater, match="does not exist"):
        await lake.head("handbook", "leave.md")
    with pytest.raises(TryLater):
        await paths(lake)


@pytest.mark.parametrize(
    ("path", "noise"),
    [
        ("a/b.md", False),
        ("a.b/c.md", False),
        ("~$report.docx", True),
        ("a/.hidden", True),
        (".git/x.md", True),
        ("a.md.TMP", True),
        ("dir/", True),
        ("x.crdownload", True),
    ],
)
def test_noise(path: str, noise: bool) -> None:
    assert is_noise(path) is noise


class Account:
    """What we use of BlobServiceClient: answers or fails as a test wants."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def get_container_client(self, container: str) -> "Account":
        self.asked.append(container)
        return self

    def get_blob_client(self, path: str) -> "Account":
        self.asked.append(path)
        return self

    async def get_blob_properties(self) -> Any:
        return self.answer()

    async def download_blob(self, **asked: Any) -> Any:
        self.asked.append(asked["etag"])
        self.answer()

        async def readall() -> bytes:
            return b"content"

        return SimpleNamespace(readall=readall)

    async def list_blobs(self, **_: Any) -> AsyncIterator[Any]:
        for each in self.answer():
            yield each


def properties(name: str = "a.md", etag: str = '"0x8D"', **metadata: str) -> Any:
    content = SimpleNamespace(content_type="text/markdown")
    return SimpleNamespace(name=name, etag=etag, size=7, content_settings=content, metadata=metadata)


def azure(answer: Callable[[], Any]) -> tuple[AzureLake, Account]:
    account = Account(answer)
    return AzureLake(account, {"handbook"}), account  # type: ignore[arg-type]


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def not_found(code: str) -> ResourceNotFoundError:
    error = ResourceNotFoundError("404")
    error.error_code = code  # type: ignore[attr-defined]
    return error


async def test_a_blob_is_read_at_its_etag() -> None:
    lake, account = azure(properties)
    assert await lake.head("handbook", "a.md") == Blob("a.md", '"0x8D"', 7, "text/markdown")
    assert await lake.read("handbook", "a.md", '"0x8D"') == b"content"
    assert account.asked[-1] == '"0x8D"'


async def test_a_listing_has_the_same_etags_as_head() -> None:
    # The service writes them without quotation marks in listings.
    listed = [properties(etag="0x8D"), properties("dir", hdi_isfolder="true"), properties(".hidden")]
    lake, _ = azure(lambda: listed)
    assert [blob async for blob in lake.blobs("handbook")] == [Blob("a.md", '"0x8D"', 7, "text/markdown")]


async def test_containers_that_are_not_in_the_settings_are_not_requested() -> None:
    lake, account = azure(properties)
    assert await lake.head("elsewhere", "a.md") is None
    assert [blob async for blob in lake.blobs("elsewhere")] == []
    with pytest.raises(Vanished):
        await lake.read("elsewhere", "a.md", "x")
    assert account.asked == []


async def test_directories_are_not_documents() -> None:
    lake, _ = azure(lambda: properties(hdi_isfolder="true"))
    assert await lake.head("handbook", "a") is None


async def test_a_missing_blob_is_none_but_a_missing_container_is_retried_later() -> None:
    lake, _ = azure(failing(not_found("BlobNotFound")))
    assert await lake.head("handbook", "a.md") is None
    with pytest.raises(Vanished):
        await lake.read("handbook", "a.md", "x")
    lake, _ = azure(failing(not_found("ContainerNotFound")))
    with pytest.raises(TryLater):
        await lake.head("handbook", "a.md")


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (ResourceModifiedError("412"), Changed),
        (HttpResponseError("503"), TryLater),
        (HttpResponseError("403"), TryLater),
        (ServiceRequestError("refused"), TryLater),
    ],
)
async def test_errors_of_the_storage_account_are_translated(error: Exception, means: type[Exception]) -> None:
    lake, _ = azure(failing(error))
    with pytest.raises(means) as raised:
        await lake.read("handbook", "a.md", "x")
    assert raised.value.__cause__ is error
