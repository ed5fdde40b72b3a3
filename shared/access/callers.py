"""`callers.yaml`: the callers and their rights. A message does not prove who sent it; the queue it came by does.

tenants:
  larkfield:
    tokens_per_minute: 60000
    budget: {usd: {day: 20, month: 300}}    # see shared/settings/budget.py
callers:
  - name: welcome-app
    tenant: larkfield
    groups: [employees]
    use_cases: [onboarding]
    queue: ask                      # only this app has the right to send here
    reply_queues: [answers]         # only these may be named in reply_to; the first is the default
    api_keys: [sha256:9f86…]        # for the HTTP endpoint
    budget: {tokens: {day: 1000000}}
"""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.contracts.queues import CORE, OUTCOMES
from shared.settings.budget import TENANT, Budget, Limit, Tokens, Unit, Window
from shared.settings.files import Section, read_yaml

KEY_PREFIX = "sha256:"
_HASHED = re.compile(KEY_PREFIX + "[0-9a-f]{64}")


# A valid name of a Service Bus queue; not a path to a subqueue such as `…/$DeadLetterQueue`.
QueueName = Annotated[str, Field(max_length=260, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/~-]*[A-Za-z0-9])?$")]


class Tenant(Section):
    """What a tenant may spend. `tokens_per_minute: n` is short for `budget: {tokens: {minute: n}}`."""

    tokens_per_minute: Tokens | None = None
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _is_limited_once(self) -> Self:
        if self.tokens_per_minute is None and not any(self.budget.limits(TENANT)):
            raise ValueError("a tenant needs tokens_per_minute or a budget; what it may spend is never unlimited")
        if self.tokens_per_minute is not None and self.budget.tokens.minute is not None:
            raise ValueError("tokens_per_minute and budget.tokens.minute are the same limit; give one of them")
        return self

    def limits(self, scope: str) -> Iterator[Limit]:
        """Every limit of this tenant, for `scope`."""
        if self.tokens_per_minute is not None:
            yield Limit(scope, Unit.TOKENS, Window.MINUTE, self.tokens_per_minute)
        yield from self.budget.limits(scope)


class Caller(Section):
    """An upstream app and its rights."""

    name: str = Field(min_length=1, max_length=64)
    tenant: str = Field(min_length=1, max_length=64)
    groups: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    use_cases: tuple[str, ...] = ()
    queue: QueueName | None = None
    reply_queues: tuple[QueueName, ...] = ()
    api_keys: tuple[str, ...] = ()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        if self.queue and not self.reply_queues:
            raise ValueError(f"caller {self.name} has a queue but no reply_queues: name at least one")
        if any(not _HASHED.fullmatch(key) for key in self.api_keys):
            raise ValueError(
                f"caller {self.name}: write api_keys as sha256:<64 hex digits in lower case>, never in the clear"
            )
        if OUTCOMES in self.reply_queues:
            raise ValueError(f"caller {self.name}: {OUTCOMES} is the gateway's own queue, not a reply queue")
        return self


class Callers(Section):
    """All callers and tenants of an installation."""

    tenants: dict[str, Tenant] = Field(default={})
    callers: tuple[Caller, ...] = ()

    @model_validator(mode="after")
    def _each_queue_and_key_has_one_caller(self) -> Self:
        _once("name", [caller.name for caller in self.callers])
        # Service Bus does not distinguish `Ask` from `ask`; and an ingress queue is never a reply queue.
        _once("queue", [queue.lower() for caller in self.callers for queue in _own(caller)])
        _once("api key", [key for caller in self.callers for key in caller.api_keys])
        ours = {queue.name for queue in CORE}
        for caller in self.callers:
            if caller.tenant not in self.tenants:
                raise ValueError(f"caller {caller.name}: tenant {caller.tenant} is not under tenants")
            if ours & {queue.lower() for queue in _own(caller)}:
                raise ValueError(f"caller {caller.name}: {sorted(ours)} are internal queues, choose other names")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `callers.yaml`; raises `SettingsError`."""
        return read_yaml(path, cls, "callers file")

    def ingresses(self) -> Iterator[str]:
        """The queues that callers send to."""
        return (caller.queue for caller in self.callers if caller.queue)

    def reply_queues(self) -> Iterator[str]:
        """The queues that callers read outcomes from."""
        return (queue for caller in self.callers for queue in caller.reply_queues)

    def at_queue(self, queue: str) -> Caller | None:
        """The caller whose ingress queue is `queue`, or None."""
        return next((caller for caller in self.callers if caller.queue == queue), None)

    def with_key(self, key: str) -> Caller | None:
        """The caller with the API key `key`, or None. Compares every stored hash, in constant time."""
        hashed = hash_key(key)
        found = None
        for caller in self.callers:
            for stored in caller.api_keys:
                if hmac.compare_digest(stored, hashed):
                    found = caller
        return found


def hash_key(key: str) -> str:
    """The form in which an API key is stored. Keys are 256 random bits, so a plain hash is enough."""
    return KEY_PREFIX + hashlib.sha256(key.encode()).hexdigest()


def _own(caller: Caller) -> list[str]:
    return [*filter(None, [caller.queue]), *set(caller.reply_queues)]


def _once(what: str, values: list[str]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"two callers have the same {what}: {twice[0]}")
