"""`docker-compose.yml` without Docker: each service as a process, from what its Dockerfile copies, where it would run.

A container's name and port become a free port of this machine, its paths a folder of its own; everything else is what
compose and the image say: command, environment, health check, and what has to be ready before.
"""

import asyncio
import json
import re
import sys
import sysconfig
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.manifests import ROOT
from tests.support.waiting import PATIENCE


def instructions(dockerfile: str, name: str) -> list[str]:
    """The arguments of an instruction, in order; lines that end in a backslash are joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / dockerfile).read_text("utf-8"))
    return [line.removeprefix(name).strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def variables(text: str, values: Mapping[str, str]) -> str:
    """`text` with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` as compose and Docker replace them."""

    def value(found: re.Match[str]) -> str:
        name, how, other = found.groups()
        if values.get(name):
            return values[name]
        assert how != ":?", f"{name} is required: {other}"
        return other or ""

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


def make_venv(folder: Path) -> Path:
    """An environment with the packages of ours, and without this repository, as an image has it."""
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        # A `.pth` is how the repository is installed in place.
        if installed.suffix != ".pth":
            (packages / installed.name).symlink_to(installed)
    interpreter = Path(sys.executable).resolve()
    (folder / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(interpreter)
    return folder


class Container:
    """One service of a compose file as a process below `folder`."""

    def __init__(
        self,
        name: str,
        spec: Mapping[str, Any],
        folder: Path,
        *,
        venv: Path,
        shell: Mapping[str, str],
        addresses: Mapping[str, str],
    ) -> None:
        """`shell`: the user's variables. `addresses`: ours, by a container's; the first that fits a place counts."""
        self.name = name
        self._spec = spec
        self._root = folder / name
        self._venv = venv
        self._shell = shell
        self._addresses = addresses
        self._log = folder / f"{name}.log"
        self._process: Process | None = None
        build = spec["build"]
        self._dockerfile = build["dockerfile"]
        self._arguments: Mapping[str, str] = build.get("args", {})
        self._workdir = self._root / instructions(self._dockerfile, "WORKDIR")[-1].lstrip("/")

    async def start(self) -> None:
        """Lay out the image and the volumes, and start the entry point."""
        (self._root / "tmp").mkdir(parents=True)
        self._link("/opt/venv", self._venv)
        for copy in instructions(self._dockerfile, "COPY"):
            if not copy.startswith("--from"):
                source, target = variables(copy, self._arguments).split()
                # What the first stage has in /build does not reach the image.
                if not target.startswith("/build/"):
                    self._link(target, ROOT / source)
        for volume in self._spec.get("volumes", ()):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                self._link(target, ROOT / source)
            else:
                (self._root / target.lstrip("/")).mkdir()
        for source, target in re.findall(r"ln -s (\S+) (\S+)", " ".join(instructions(self._dockerfile, "RUN"))):
            (installed,) = self._root.glob(source.lstrip("/"))
            if not (self._root / target.lstrip("/")).exists():
                self._link(target, installed)
        self._process = await self._run(self._command())

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def is_healthy(self) -> bool:
        """Whether its health check passes once: compose's, or else the image's."""
        if "healthcheck" in self._spec:
            kind, *words = self._spec["healthcheck"]["test"]
        else:
            kind, *words = json.loads(instructions(self._dockerfile, "HEALTHCHECK")[0].partition("CMD ")[2])
            kind, words = "CMD", [kind, *words]
        assert kind == "CMD"
        check = await self._run([self.placed(word) for word in words])
        try:
            return await check.wait() == 0
        finally:
            if check.returncode is None:
                check.kill()
                await check.wait()

    async def wait(self) -> int:
        """Its exit status, when it has ended."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), PATIENCE)

    async def stop(self) -> int:
        """Its exit status after SIGTERM."""
        if self.alive and self._process is not None:
            self._process.terminate()
        return await self.wait()

    async def kill(self) -> None:
        """End it at once, if it runs."""
        if self.alive and self._process is not None:
            self._process.kill()
            await self._process.wait()

    def _link(self, target: str, source: Path) -> None:
        assert source.exists(), f"{self.name}: {source} does not exist"
        place = self._root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)

    def _command(self) -> list[str]:
        image = [json.loads(each) for each in instructions(self._dockerfile, "ENTRYPOINT")]
        words = [*self._spec.get("entrypoint", image[-1]), *self._spec.get("command", ())]
        return [self.placed(word) for word in words]

    def _variables(self) -> dict[str, str]:
        image: dict[str, str] = {}
        for line in instructions(self._dockerfile, "ENV"):
            image |= {name: variables(value, self._arguments) for name, value in re.findall(r"(\w+)=(\S+)", line)}
        own = {name: variables(value, self._shell) for name, value in self._spec.get("environment", {}).items()}
        placed = {name: self.placed(value) for name, value in {**image, **own}.items() if name != "PATH"}
        return {**placed, "PATH": f"{self._root}/opt/venv/bin:/usr/bin:/bin"}

    def placed(self, text: str) -> str:
        """`text` with this machine's addresses and paths in the places of the container's."""
        theirs = "|".join(rf"(?<!\d){re.escape(each)}(?!\d)" for each in self._addresses)
        text = re.sub(theirs, lambda found: self._addresses[found[0]], text)
        return (
            f"{self._root}{text}"
            if re.match(r"/(etc|data|lake|tmp|opt|healthcheck\.py|Config\.json)\b", text)
            else text
        )

    async def _run(self, words: Sequence[str]) -> Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *words, cwd=self._workdir, env=self._variables(), stdin=DEVNULL, stdout=log, stderr=log
            )
