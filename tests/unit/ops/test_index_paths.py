from datetime import timedelta
from pathlib import Path

import pytest

from ops.commands.index import age, lake_of, put, remove, within
from ops.errors import CommandError
from ops.target import Target


def target(**variables: str) -> Target:
    return Target(variables, "a test")


def test_a_document_is_put_into_the_lake_and_taken_out_again(tmp_path: Path) -> None:
    lake, file = tmp_path / "lake", tmp_path / "new.md"
    lake.mkdir()
    file.write_text("# New")
    at = target(RAGBUS_LAKE_FOLDER=str(lake))
    put(at, [file], "policies/2026")
    assert [path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file()] == ["policies/2026/new.md"]
    remove(at, ["policies/2026/new.md"])
    assert not (lake / "policies/2026/new.md").exists()


@pytest.mark.parametrize("path", ["../x.md", "a/../../x.md", "/etc/passwd", "", "."])
def test_nothing_outside_the_lake_is_touched(tmp_path: Path, path: str) -> None:
    with pytest.raises(CommandError, match="not a path inside the lake"):
        within(tmp_path.resolve(), path)


def test_a_document_is_named_by_its_own_path(tmp_path: Path) -> None:
    """Removing a link must not remove what it leads to."""
    lake = tmp_path.resolve()
    (lake / "managers").mkdir()
    (lake / "managers" / "x.md").write_text("x")
    (lake / "link.md").symlink_to("managers/x.md")
    (lake / "folder").symlink_to("managers", target_is_directory=True)
    for path in ("link.md", "folder/x.md", "managers/../managers/x.md"):
        with pytest.raises(CommandError, match=r"another name of managers/x\.md"):
            remove(target(RAGBUS_LAKE_FOLDER=str(lake)), [path])
    with pytest.raises(CommandError, match="backslash"):
        within(lake, "managers\\x.md")
    assert within(lake, "managers//x.md") == lake / "managers" / "x.md"
    assert (lake / "managers" / "x.md").exists()


def test_removing_a_missing_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"the lake has no gone\.md"):
        remove(target(RAGBUS_LAKE_FOLDER=str(tmp_path)), ["gone.md"])


def test_a_lake_that_is_a_storage_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="az storage blob upload"):
        lake_of(target())
    with pytest.raises(CommandError, match="is not a folder"):
        lake_of(target(RAGBUS_LAKE_FOLDER=str(tmp_path / "gone")))


@pytest.mark.parametrize(
    ("seconds", "said"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (90_000, "1 d")]
)
def test_an_age_is_printed_in_its_largest_unit(seconds: int, said: str) -> None:
    assert age(timedelta(seconds=seconds)) == said
