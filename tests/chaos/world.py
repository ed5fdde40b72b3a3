"""The little world of a chaos run: two tenants, three callers, what each may know, and what each will ask.

Every station has a locker code in both tenants, a different one, and a vault code that only managers of the first may
know. The callers ask the same questions under the same message ids, so an answer that crosses a line, or belongs to
another question, holds a word that it must not.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from local.stack.child import ROOT
from shared.contracts.ids import request_id
from tests.chaos.history import Asked

EXAMPLE = ROOT / "examples" / "onboarding"
BULLETIN = "bulletin.md"
# Between a model's name and its caller's.
BY = "-by-"

_CALLERS = """\
tenants:
  tessolund: {tokens_per_minute: 1000000000}
  larkfield: {tokens_per_minute: 1000000000}
callers:
  - {name: welcome-app, tenant: tessolund, groups: [employees], use_cases: [onboarding], queue: ask,
     reply_queues: [answers]}
  - {name: hr-portal, tenant: tessolund, groups: [employees, managers], use_cases: [onboarding], queue: ask-hr,
     reply_queues: [answers-hr]}
  - {name: partner-app, tenant: larkfield, groups: [employees], use_cases: [onboarding], queue: ask-partner,
     reply_queues: [answers-partner]}
"""
_SOURCES = """\
sources:
  - {container: handbook, prefix: "", tenant: tessolund, collection: handbook, groups: [employees, managers]}
  - {container: handbook, prefix: managers/, tenant: tessolund, collection: handbook, groups: [managers]}
  - {container: handbook, prefix: partner/, tenant: larkfield, collection: handbook, groups: [employees]}
"""
_USE_CASE = """\
name: onboarding
collection: handbook
prompt: |
  Answer the question from the passages below, and from nothing else.
  After each statement, cite the passage it comes from with its number in square brackets, like [2].
deployments: [onboarding-4k, onboarding-4k-north]
context_window: 4000
answer_tokens: 200
question_tokens: 200
deadline: {default: 60, longest: 300}
retrieval: {candidates: 6}
cache: {ttl: 3600}
"""
_STATIONS = (
    "Alder Birch Cedar Dogwood Elm Fir Ginkgo Hazel Ironwood Juniper Katsura Larch Maple Nutmeg Oak Pine "
    "Quince Rowan Spruce Teak Umbrella Viburnum Willow Yew"
).split()


@dataclass(frozen=True, slots=True)
class Caller:
    """An upstream app: who it is and which queues are its own."""

    name: str
    tenant: str
    queue: str
    reply_queue: str


CALLERS = (
    Caller("welcome-app", "tessolund", "ask", "answers"),
    Caller("hr-portal", "tessolund", "ask-hr", "answers-hr"),
    Caller("partner-app", "larkfield", "ask-partner", "answers-partner"),
)
_TESSOLUND = frozenset({"welcome-app", "hr-portal"})
_MANAGERS = frozenset({"hr-portal"})
_PARTNER = frozenset({"partner-app"})
READERS = {
    "stations.md": _TESSOLUND,
    BULLETIN: _TESSOLUND,
    "managers/vaults.md": _MANAGERS,
    "partner/stations.md": _PARTNER,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """One request before it is sent."""

    caller: Caller
    message_id: str
    question: str
    expects: tuple[str, ...]
    patience: float
    """Seconds it may take; its time to live."""
    session: str

    def asked(self, at: float) -> Asked:
        """The same as part of a history: first sent `at` seconds since the epoch."""
        return Asked(
            request_id=request_id(self.caller.tenant, self.caller.name, self.message_id),
            message_id=self.message_id,
            caller=self.caller.name,
            question=self.question,
            reply_queue=self.caller.reply_queue,
            session=self.session,
            deadline=at + self.patience,
            expects=self.expects,
        )


@dataclass(slots=True)
class World:
    """Codes drawn with `rng`."""

    rng: random.Random
    lockers: dict[str, str] = field(init=False)
    vaults: dict[str, str] = field(init=False)
    partner_lockers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        numbers = iter(self.rng.sample(range(1000, 10_000), 3 * len(_STATIONS)))
        self.lockers = {station: f"LK{next(numbers)}" for station in _STATIONS}
        self.vaults = {station: f"VT{next(numbers)}" for station in _STATIONS}
        self.partner_lockers = {station: f"PK{next(numbers)}" for station in _STATIONS}

    def configure(self, config: Path, worker: str) -> None:
        """Write a configuration whose chat models bear the name of `worker`: so the model's log tells who called."""
        (config / "use_cases").mkdir(parents=True)
        (config / "callers.yaml").write_text(_CALLERS)
        (config / "sources.yaml").write_text(_SOURCES)
        models = (EXAMPLE / "models.yaml").read_text()
        (config / "models.yaml").write_text(re.sub(r"model: (onboarding-\S+)", rf"model: \1{BY}{worker}", models))
        (config / "use_cases" / "onboarding.yaml").write_text(_USE_CASE)

    def publish(self, documents: Path) -> None:
        """Write the first state of the lake."""
        pages = {
            "stations.md": _page("Stations", "locker", self.lockers),
            "managers/vaults.md": _page("Vaults", "vault", self.vaults),
            "partner/stations.md": _page("Stations", "locker", self.partner_lockers),
            BULLETIN: bulletin(0),
        }
        for name, text in pages.items():
            (documents / name).parent.mkdir(parents=True, exist_ok=True)
            (documents / name).write_text(text)

    def secrets(self) -> dict[str, frozenset[str]]:
        """Every code, and who may be told it."""
        codes = ((self.lockers, _TESSOLUND), (self.vaults, _MANAGERS), (self.partner_lockers, _PARTNER))
        return {code: callers for kind, callers in codes for code in kind.values()}

    def wishes(self, count: int) -> Iterator[Wish]:
        """`count` requests: each question is asked by all three callers, one after the other."""
        for number in range(count):
            topic, turn = divmod(number, len(CALLERS))
            yield self._wish(topic, CALLERS[turn])

    def _wish(self, topic: int, caller: Caller) -> Wish:
        station = _STATIONS[topic % len(_STATIONS)]
        vault = topic % 10 == 0
        known = self.vaults if vault else self.partner_lockers if caller.name in _PARTNER else self.lockers
        # Who may not read of vaults may be told that there is no answer, or of the locker; but never the code.
        telling = not vault or caller.name in _MANAGERS
        return Wish(
            caller=caller,
            message_id=f"topic-{topic}",
            question=f"What is the {'vault' if vault else 'locker'} code of station {station}? (note {topic})",
            expects=(known[station],) if telling else (),
            # Some deadlines pass while the run lasts, so that their sentinels find the outcome that was sent.
            patience=60.0 if topic % 4 == 1 else 240.0,
            session=f"{caller.name}-{topic % 2}",
        )


def bulletin(number: int) -> str:
    """The document that changes all the time."""
    return f"# Bulletin\n\nThe bulletin board of station Zelkova shows the number {_edition(number)}.\n"


def content_hash(number: int) -> str:
    """By which the index knows this edition of the bulletin."""
    return hashlib.sha256(bulletin(number).encode()).hexdigest()


def about_bulletin(number: int) -> Wish:
    """The request whose answer is in the last edition of the bulletin and in no other."""
    question = "Which number does the bulletin board of station Zelkova show?"
    return Wish(CALLERS[0], "bulletin", question, (_edition(number),), 60.0, f"{CALLERS[0].name}-0")


def _edition(number: int) -> str:
    return f"BB{number:05d}"


def _page(title: str, kind: str, codes: dict[str, str]) -> str:
    sections = (f"## Station {s}\n\nThe {kind} code of station {s} is {code}.\n" for s, code in codes.items())
    return f"# {title}\n\n" + "\n".join(sections)
