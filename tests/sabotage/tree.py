"""A copy of the working tree, in which faults are planted one at a time."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.sabotage.plant import Moved, Plant

ROOT = Path(__file__).parents[2]
_WHERE = "import shared, services, tests.support as m; print(shared.__file__, services.__file__, m.__file__, sep='\\n')"


class WrongTree(Exception):
    """The copy's tests would import the original's code, and every plant would survive."""


class Tree:
    """A folder with a copy in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    async def of_the_project(cls, folder: Path) -> "Tree":
        """Copy what git tracks and what it would track, as it is now; raises `WrongTree`."""
        listed = await _output("git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard")
        for name in filter(None, listed.split("\0")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # deleted, and not committed yet
                shutil.copy2(ROOT / name, target)
        tree = cls(folder)
        await tree._check()
        return tree

    def twin(self, folder: Path) -> "Tree":
        """Another copy, for tests that run at the same time."""
        shutil.copytree(self.folder, folder)
        return Tree(folder)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process is told so that it imports this copy, although the original is installed (editable)."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def moved(self, plant: Plant) -> Moved | None:
        """Why `plant` cannot be planted, if it cannot."""
        try:
            plant.sow((self.folder / plant.file).read_text())
        except Moved as moved:
            return moved
        return None

    @contextmanager
    def planted(self, plant: Plant) -> Iterator[None]:
        """Put the fault in, and take it out again; raises `Moved`."""
        file = self.folder / plant.file
        before, stat = file.read_text(), file.stat()
        file.write_text(plant.sow(before))
        # Python trusts bytecode by the second of its source: two changes within one would not be seen.
        os.utime(file, (stat.st_atime, stat.st_mtime + 60))
        try:
            yield
        finally:
            file.write_text(before)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    async def _check(self) -> None:
        found = await _output(sys.executable, "-c", _WHERE, cwd=self.folder, env=self.environment)
        for file in found.split():
            if not Path(file).is_relative_to(self.folder):
                raise WrongTree(f"{file} is imported, and not the copy in {self.folder}")


async def _output(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, env=env, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode:
        raise WrongTree(f"{command[0]} ended with {process.returncode}; its reason is above")
    return said.decode()
