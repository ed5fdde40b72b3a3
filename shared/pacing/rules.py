"""Who may call a deployment, and when. Pure: state in, state out; `pacing.py` runs the same rules as scripts in Redis.

    ask ──▶ there is enough for it and for all before it in the line ──▶ the call ──▶ settle: what the provider said
        └─▶ there is not: a place in the line, and the seconds until its turn; the same ask comes back then

levels  what may be used now, of tokens and of requests; refilled evenly, as providers do
line    asks before ingestion; then the tenant that was served least (start-time fair queueing, Goyal et al. 1996);
        within a tenant the earliest deadline, and of equal ones the oldest
place   kept until shortly after its turn; if its owner died, those behind move up

Providers count the most that a call can use (prompt and maximum answer) when it arrives, and not what it used in the
end (Azure OpenAI, "Manage quota": "the maximum number of processed tokens"). What they say in `x-ratelimit-*` corrects
the levels; where they say nothing, unused tokens are given back.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

MINUTE = 60.0
# Requests that may be sent at once, in seconds' worth: providers look at one to ten seconds for them (Azure OpenAI,
# "Manage quota"), and at a minute for tokens.
REQUESTS_BURST = 10.0
# Seconds after its turn until a place lapses, because its owner did not come back.
GRACE = 3.0
# Seconds after a grant in which its call has reached the provider.
ARRIVES = 1.0
# The part of the quota that ingestion leaves for asks.
RESERVE = 0.1
# The part of a minute's tokens that is left unused: what our estimates of calls under way may be too low by. It takes
# nothing from the rate.
CUSHION = 0.05
# Ingestion that may have a place: a backlog of thousands of documents must not make the line long for asks. What comes
# after them gets a time behind them, and no place.
PLACES = 100
# Seconds between calls when a throttle is over and the quota is unknown.
SPACING = 0.1
# Seconds to wait after a throttle that does not say how long; twice as long after each more in a row.
BACKOFF, LONGEST_BACKOFF = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Quota:
    """Tokens and requests per minute; 0: no limit is known."""

    tokens: float = 0.0
    requests: float = 0.0

    def least(self, other: "Quota") -> "Quota":
        """The stricter of both, kind by kind."""
        return Quota(_least(self.tokens, other.tokens), _least(self.requests, other.requests))

    @property
    def tokens_burst(self) -> float:
        """The most tokens that may be used at once."""
        return self.tokens

    @property
    def requests_burst(self) -> float:
        """The most requests that may be sent at once."""
        return max(1.0, self.requests * REQUESTS_BURST / MINUTE)


@dataclass(frozen=True, slots=True)
class Ask:
    """Work that wants to make one call."""

    who: str
    """The same when it comes back."""
    tenant: str
    tokens: float
    """The most that the call can use."""
    due: float = 0.0
    """Its deadline, only compared with others; 0 for ingestion, whose oldest is first."""
    ingestion: bool = False
    patience: float = 0.0
    """Seconds that it can wait; if its turn is later, it takes no place, and leaves the one that it has. 0: it asks
    whether its turn has come, and keeps the place that it has."""

    @property
    def flow(self) -> str:
        """Who is served: a tenant's asks, or its ingestion."""
        return f"{int(self.ingestion)}{self.tenant}"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the line."""

    flow: str
    due: float
    since: float
    """When it first asked."""
    tokens: float
    lapses: float


@dataclass(frozen=True, slots=True)
class Said:
    """What a provider said about its quota with a reply; None: nothing."""

    limit: Quota = Quota()
    remaining_tokens: float | None = None
    remaining_requests: float | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A call that may be made."""

    tokens: float
    at: float
    total_tokens: float
    """All that was granted so far, with this call."""
    total_requests: float
    backoff: float = 0.0
    """`Pace.backoff` then: this call tries whether the throttles are over."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The state of a deployment; times are seconds of one clock."""

    tokens: float | None = None
    """What may be used at `at`; None: a full burst."""
    requests: float | None = None
    at: float = 0.0
    """The time of the levels. In the future after a throttle: nothing may be called before."""
    limit: Quota = Quota()
    """As the provider said."""
    total_tokens: float = 0.0
    total_requests: float = 0.0
    mark_at: float = 0.0
    """A moment at least `ARRIVES` before the last grant, and `total_tokens` then."""
    mark_total: float = 0.0
    next_mark_at: float = 0.0
    next_mark_total: float = 0.0
    virtual: float = 0.0
    """The start tag of the last grant: tokens that a tenant with work has been served at least."""
    served: Mapping[str, float] = field(default_factory=dict)
    """Finish tags, of flows that are ahead of `virtual`."""
    line: Mapping[str, Place] = field(default_factory=dict)
    tail: float = 0.0
    """The last time that was given to ingestion without a place."""
    backoff: float = 0.0
    """Seconds of the pause after the last throttle that did not say how long; 0 after a success."""
    backoff_at: float = 0.0
    """When that throttle came: calls granted before do not count."""

    def in_turn(self) -> Iterator[tuple[str, Place]]:
        """The line, first to last."""
        flows: dict[str, list[tuple[float, float, str]]] = {}
        for who, place in self.line.items():
            flows.setdefault(place.flow, []).append((place.due, place.since, who))
        for waiting in flows.values():
            waiting.sort()
        tags = {flow: max(self.served.get(flow, 0.0), self.virtual) for flow in flows}
        while flows:
            flow = min(flows, key=lambda each: (each[0], tags[each], flows[each][0]))
            *_, who = flows[flow].pop(0)
            place = self.line[who]
            yield who, place
            tags[flow] += place.tokens
            if not flows[flow]:
                del flows[flow]


def ask(pace: Pace, quota: Quota, wants: Ask, now: float) -> "tuple[Pace, Granted | float]":
    """The state after an ask, and the call, or the seconds until its turn.

    `quota`: as configured. An ask that is larger than a whole burst is granted when that is full: the provider decides.
    """
    quota = quota.least(pace.limit)
    pace = _refilled(pace, quota, now)
    before = pace.line.get(wants.who)
    own = Place(wants.flow, wants.due, before.since if before else now, wants.tokens, now)
    line = {who: place for who, place in pace.line.items() if place.lapses > now}
    line[wants.who] = own
    pace = replace(pace, line=line)
    tokens_ahead = requests_ahead = 0.0
    for who, place in pace.in_turn():
        if who == wants.who:
            break
        tokens_ahead += place.tokens
        requests_ahead += 1
    wait, reserve = max(0.0, pace.at - now), RESERVE if wants.ingestion else 0.0
    held_up = 0.0
    if quota.tokens:
        burst = quota.tokens_burst
        missing = tokens_ahead + min(wants.tokens + (CUSHION + reserve) * burst, burst) - (pace.tokens or 0.0)
        held_up = max(held_up, missing * MINUTE / quota.tokens)
    if quota.requests:
        burst = quota.requests_burst
        missing = requests_ahead + min(1 + reserve * burst, burst) - (pace.requests or 0.0)
        held_up = max(held_up, missing * MINUTE / quota.requests)
    elif wait > 0:
        held_up = max(held_up, requests_ahead * SPACING)
    wait += held_up
    if wait > 0:
        line = {who: place for who, place in pace.line.items() if who != wants.who}
        if wants.ingestion and before is None and sum(each.flow[0] == "1" for each in line.values()) >= PLACES:
            by_tokens = wants.tokens * MINUTE / quota.tokens if quota.tokens else 0.0
            tail = max(pace.tail, now + wait) + max(by_tokens, MINUTE / quota.requests if quota.requests else SPACING)
            return replace(pace, line=line, tail=tail), tail - now
        if wait <= wants.patience:
            line[wants.who] = replace(own, lapses=now + wait + GRACE)
        elif before and not wants.patience and before.lapses > now:
            line[wants.who] = before
        return replace(pace, line=line), wait
    return _granted(pace, quota, wants, now)


def settle(
    pace: Pace, quota: Quota, call: Granted, said: Said, used: float | None, now: float, *, succeeded: bool = True
) -> Pace:
    """The state after a call that was not throttled; `used`: its tokens, None if unknown. A success ends a back-off.

    What remained for the provider when the call arrived bounds what remains now: since then it was refilled, and it has
    counted the calls that were granted at least `ARRIVES` ago, at most all. It raises our level only if its limit is
    ours, and not when we are to use a part of it.
    """
    pace = replace(
        pace, limit=Quota(said.limit.tokens or pace.limit.tokens, said.limit.requests or pace.limit.requests)
    )
    quota = quota.least(pace.limit)
    pace = _refilled(pace, quota, now)
    tokens, requests = pace.tokens, pace.requests
    if tokens is not None:
        if said.remaining_tokens is not None:
            arrived = max(0.0, pace.mark_total - call.total_tokens) if pace.mark_at > call.at else 0.0
            high = said.remaining_tokens + (now - call.at) * quota.tokens / MINUTE - arrived
            if said.limit.tokens == quota.tokens:
                tokens = max(tokens, said.remaining_tokens - (pace.total_tokens - call.total_tokens))
            tokens = min(tokens, high, quota.tokens_burst)
        elif used is not None:
            tokens = min(tokens + call.tokens - used, quota.tokens_burst)
    if requests is not None and said.remaining_requests is not None:
        high = said.remaining_requests + (now - call.at) * quota.requests / MINUTE
        requests = min(requests, high)
    if succeeded and call.at >= pace.backoff_at:
        pace = replace(pace, backoff=0.0)
    return replace(pace, tokens=tokens, requests=requests)


def throttled(pace: Pace, quota: Quota, call: Granted, after: float | None, now: float) -> tuple[Pace, float]:
    """The state after a call was refused until some seconds from now, and these: then there is enough for it, no more.

    `after`: as the provider said; None: it did not, and each refusal in a row doubles the pause. Calls that were under
    way together are refused together, and count as one. It stays counted: some providers count refused calls.
    """
    quota = quota.least(pace.limit)
    pace = _refilled(pace, quota, now)
    if after is None:
        if call.at >= pace.backoff_at:
            pace = replace(pace, backoff=min(2 * pace.backoff or BACKOFF, LONGEST_BACKOFF), backoff_at=now)
        after = pace.backoff or BACKOFF
    if now + after > pace.at:
        tokens = min(call.tokens + CUSHION * quota.tokens_burst, quota.tokens_burst) if quota.tokens else None
        pace = replace(pace, at=now + after, tokens=tokens, requests=1.0 if quota.requests else None)
    return pace, after


def room(pace: Pace, quota: Quota, seconds: float, now: float) -> float | None:
    """How many calls of usual size may begin within `seconds`; None: no limit is known."""
    quota = quota.least(pace.limit)
    pace = _refilled(pace, quota, now)
    left, rooms = max(0.0, seconds - (pace.at - now)), list[float]()
    if pace.tokens is not None and pace.total_requests:
        tokens = pace.tokens - CUSHION * quota.tokens_burst + left * quota.tokens / MINUTE
        rooms.append(tokens * pace.total_requests / pace.total_tokens)
    if pace.requests is not None:
        rooms.append(pace.requests + left * quota.requests / MINUTE)
    return max(0.0, min(rooms)) if rooms else None


def _granted(pace: Pace, quota: Quota, wants: Ask, now: float) -> tuple[Pace, Granted]:
    start = max(pace.served.get(wants.flow, 0.0), pace.virtual)
    served = {flow: tag for flow, tag in pace.served.items() if tag > start}
    served[wants.flow] = start + wants.tokens
    total_tokens, total_requests = pace.total_tokens + wants.tokens, pace.total_requests + 1
    if now - pace.next_mark_at >= ARRIVES:
        pace = replace(
            pace,
            mark_at=pace.next_mark_at,
            mark_total=pace.next_mark_total,
            next_mark_at=now,
            next_mark_total=pace.total_tokens,
        )
    after = replace(
        pace,
        tokens=(pace.tokens or 0.0) - wants.tokens if quota.tokens else None,
        requests=(pace.requests or 0.0) - 1 if quota.requests else None,
        total_tokens=total_tokens,
        total_requests=total_requests,
        virtual=start,
        served=served,
        line={who: place for who, place in pace.line.items() if who != wants.who},
    )
    return after, Granted(wants.tokens, now, total_tokens, total_requests, pace.backoff)


def _refilled(pace: Pace, quota: Quota, now: float) -> Pace:
    passed = max(0.0, now - pace.at)
    tokens = requests = None
    if quota.tokens:
        level = quota.tokens_burst if pace.tokens is None else pace.tokens
        tokens = min(quota.tokens_burst, level + passed * quota.tokens / MINUTE)
    if quota.requests:
        level = quota.requests_burst if pace.requests is None else pace.requests
        requests = min(quota.requests_burst, level + passed * quota.requests / MINUTE)
    return replace(pace, tokens=tokens, requests=requests, at=max(pace.at, now))


def _least(one: float, other: float) -> float:
    return min(one, other) if one and other else one or other
