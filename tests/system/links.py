"""Fault proxies between the workers and what they depend on, each a process of its own."""

import re
import subprocess
import sys
from typing import Any

import httpx

from local.stack import Stack

GONE: tuple[dict[str, Any], ...] = ({"fault": "reset"}, {"fault": "refuse"})
"""Open connections break, and new ones are refused."""
HUNG: dict[str, Any] = {"fault": "black-hole"}
"""Connections stay open, and no data passes."""


class Link:
    """The way to one dependency, which can be spoilt."""

    def __init__(self, port: int) -> None:
        """`port`: of what is at its end."""
        command = [sys.executable, "-m", "local.proxy", "--to", f"127.0.0.1:{port}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = re.search(r"ready, \S+:(\d+) to \S+, control on (\S+)", self._process.stdout.readline())
        assert said is not None
        self.port = int(said[1])
        self._control = httpx.Client(base_url=said[2], timeout=300)

    def fail(self, *faults: dict[str, Any]) -> None:
        """Have these faults; none: a faithful way."""
        self._control.post("/control/faults", json=list(faults)).raise_for_status()

    @property
    def tries(self) -> int:
        """How many connections were made over it so far."""
        return int(self._control.get("/control/connections").raise_for_status().json()["accepted"])

    def close(self) -> None:
        """Tear it down."""
        self._control.close()
        self._process.terminate()
        self._process.communicate()


class Links:
    """The ways to everything that a stack runs; the retriever and the generator have one each to the models."""

    def __init__(self, stack: Stack) -> None:
        at = stack.addresses
        model = httpx.URL(at.llm_url).port or 0
        self.redis = Link(httpx.URL(at.redis_url).port or 0)
        self.vectors = Link(httpx.URL(at.qdrant_url).port or 0)
        self.embeddings = Link(model)
        self.chat = Link(model)
        self.broker = Link(at.broker)
        self._direct = at.connection_string, at.broker

    def settings(self, worker: str) -> dict[str, str]:
        """What makes `worker` take them."""
        there, port = self._direct
        model = f"http://127.0.0.1:{(self.chat if worker == 'generator' else self.embeddings).port}"
        return {
            "RAGBUS_REDIS_URL": f"redis://127.0.0.1:{self.redis.port}/0",
            "RAGBUS_QDRANT_URL": f"http://127.0.0.1:{self.vectors.port}",
            "RAGBUS_MODEL_ENDPOINT": model,
            "RAGBUS_MODEL_ENDPOINT_2": model,
            "RAGBUS_SERVICEBUS_CONNECTION_STRING": there.replace(f":{port};", f":{self.broker.port};"),
        }

    def all(self) -> tuple[Link, ...]:
        """Each of them."""
        return self.redis, self.vectors, self.embeddings, self.chat, self.broker

    def mend(self) -> None:
        """No faults anywhere."""
        for link in self.all():
            link.fail()

    def close(self) -> None:
        """Tear them down."""
        for link in self.all():
            link.close()
