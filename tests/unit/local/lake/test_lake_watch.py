"""Scanning a real folder, sending events, saving the checkpoint."""

import json
import os
import sys
from pathlib import Path

import pytest

from local.lake.checkpoint import Checkpoint, Unusable, load, save
from local.lake.diff import File
from local.lake.events import Container, Event
from local.lake.watch import Watch

START = 2_000_000_000_000_000_000


class Lake:
    """A folder, a watch on it, a clock that only this test moves."""

    def __init__(self, folder: Path) -> None:
        self.root, self.kept_in = folder / "lake", folder / "checkpoint.json"
        self.root.mkdir()
        self.now, self.sent, self.down = START, list[str](), 0
        self.restart()

    def restart(self) -> None:
        """Forget everything but the checkpoint."""
        self.watch = Watch(
            self.root.resolve(), Container("docs"), self.kept_in, self._send, clock=lambda: self.now, interval=1
        )

    def put(self, path: str, content: str = "text", *, age: float = 10) -> Path:
        """Write a file that was last written `age` seconds ago."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        moment = self.now - int(age * 1e9)
        os.utime(file, ns=(moment, moment))
        return file

    async def scan(self) -> list[str]:
        """Scan one second later; what was sent."""
        self.now += 1_000_000_000
        self.sent.clear()
        await self.watch.once()
        return list(self.sent)

    async def _send(self, event: Event) -> None:
        if self.down:
            self.down -= 1
            raise ConnectionError("the queue is unavailable")
        path = json.loads(event.body)["subject"].split("/blobs/")[1]
        self.sent.append(f"{event.kind.removeprefix('Blob')} {path}")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(tmp_path)


async def test_put_overwrite_rename_delete(lake: Lake) -> None:
    file = lake.put("hr/leave.md")
    assert await lake.scan() == ["Created hr/leave.md"]
    assert await lake.scan() == []
    lake.put("hr/leave.md", "other", age=5)
    assert await lake.scan() == ["Created hr/leave.md"]
    file.rename(lake.root / "leave.md")
    assert await lake.scan() == ["Renamed leave.md"]
    (lake.root / "leave.md").unlink()
    assert await lake.scan() == ["Deleted leave.md"]


async def test_a_folder_is_renamed_and_removed_file_by_file(lake: Lake) -> None:
    lake.put("a/1.md", "one")
    lake.put("a/b/2.md", "two")
    await lake.scan()
    (lake.root / "a").rename(lake.root / "z")
    assert await lake.scan() == ["Renamed z/1.md", "Renamed z/b/2.md"]
    for path in ("z/1.md", "z/b/2.md"):
        (lake.root / path).unlink()
    assert await lake.scan() == ["Deleted z/1.md", "Deleted z/b/2.md"]


async def test_hidden_and_temporary_files_are_ignored(lake: Lake) -> None:
    for path in (".git/config", ".hidden", "~$report.docx", "a.tmp", "b.PART", "sub/.x/y.md"):
        lake.put(path)
    assert await lake.scan() == []


async def test_a_file_that_is_being_written_is_sent_when_it_is_finished(lake: Lake) -> None:
    lake.put("a.md", "hal", age=-1)
    assert await lake.scan() == []
    lake.put("a.md", "half", age=-1)
    assert await lake.scan() == []
    assert await lake.scan() == ["Created a.md"]  # two looks found it alike
    lake.put("a.md", "whole", age=-1)
    assert await lake.scan() == []  # and not Deleted meanwhile
    assert await lake.scan() == ["Created a.md"]


async def test_changes_made_while_it_was_stopped_are_sent(lake: Lake) -> None:
    lake.put("old.md")
    lake.put("gone.md", "gone")
    await lake.scan()
    (lake.root / "gone.md").unlink()
    lake.put("new.md", "new")
    lake.restart()
    assert await lake.scan() == ["Deleted gone.md", "Created new.md"]


async def test_the_checkpoint_moves_after_every_event_was_sent(lake: Lake) -> None:
    for name in ("a.md", "b.md"):
        lake.put(name, name)
    lake.down = 1
    with pytest.raises(ConnectionError):
        await lake.scan()
    lake.restart()
    assert await lake.scan() == ["Created a.md", "Created b.md"]


async def test_a_root_that_disappeared_is_not_an_empty_lake(lake: Lake) -> None:
    lake.put("a.md")
    await lake.scan()
    lake.root.rename(lake.root.with_name("unplugged"))
    with pytest.raises(FileNotFoundError):
        await lake.scan()
    lake.root.with_name("unplugged").rename(lake.root)
    assert await lake.scan() == []


async def test_what_cannot_be_read_is_not_gone(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put("locked/a.md")
    await lake.scan()
    real = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert await lake.scan() == []
    assert lake.watch.counts()["ignored"] == ["locked/"]


async def test_links_are_not_followed(lake: Lake, tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("x")
    lake.put("inside.md", "y")
    for name, target in {"out.md": secret, "up": tmp_path, "broken.md": tmp_path / "none"}.items():
        (lake.root / name).symlink_to(target)
    (lake.root / "alias.md").symlink_to(lake.root / "inside.md")
    assert await lake.scan() == ["Created inside.md"]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
async def test_odd_names_are_sent_and_impossible_ones_are_counted(lake: Lake) -> None:
    for name in ("a b#c%d?.md", "ünïcode 日本.md", "new\nline.md"):
        lake.put(name, name)
    lake.put(os.fsdecode(b"latin\xe9.md"))
    assert sorted(await lake.scan()) == sorted(
        ["Created a b#c%d?.md", "Created ünïcode 日本.md", "Created new\nline.md"]
    )
    assert lake.watch.counts()["ignored"] == ["latin\\udce9.md"]


async def test_its_own_checkpoint_may_lie_in_the_lake(lake: Lake) -> None:
    lake.kept_in = lake.root / "checkpoint.json"
    lake.restart()
    lake.put("a.md")
    assert await lake.scan() == ["Created a.md"]
    assert await lake.scan() == []


async def test_sequencers_grow_even_when_the_clock_steps_back(lake: Lake) -> None:
    seen: list[str] = []

    async def note(event: Event) -> None:
        seen.append(json.loads(event.body)["data"]["sequencer"])

    for step in range(4):
        lake.restart()
        lake.watch.send = note
        lake.put(f"{step}.md", str(step), age=1e6)
        await lake.watch.once()
        lake.now -= 500_000_000
    assert seen == sorted(set(seen))
    assert len(seen) == 4


def test_a_checkpoint_survives_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    kept = Checkpoint("docs", 7, {"a b.md": File(1, 2, 3, 4, "ff")})
    save(path, kept)
    assert load(path, "docs") == kept
    (tmp_path / "checkpoint.json.tmp").write_text("half of the next")
    assert load(path, "docs") == kept


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 2}', '{"version": 1, "container": "docs", "files": 3}']
)
def test_a_damaged_checkpoint_is_refused_with_advice(tmp_path: Path, content: str) -> None:
    path = tmp_path / "checkpoint.json"
    path.write_text(content)
    with pytest.raises(Unusable, match="remove it"):
        load(path, "docs")


def test_the_checkpoint_of_another_container_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    save(path, Checkpoint("docs"))
    with pytest.raises(Unusable, match="belongs to container 'docs'"):
        load(path, "other")
