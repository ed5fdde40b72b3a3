"""What may still be spent. Pure; Redis runs the same rules as scripts (`scripts.py`), a process without Redis these.

A tenant has an account for each unit (tokens, money) and each scope (itself, a use case, a caller):

    limit  |——— spent ———|— overrun —|——— held ———|········ left ········|

`held` is reserved by requests in progress: the estimate of one that waits, the worst case of a call that is made.
`spent` is what calls used of that, so it never exceeds the limit; `overrun` is what a provider counted beyond it.
Days and months of UTC begin with nothing spent. A minute's limit is a bucket: what is reserved or used is a debt, of
which the limit's amount is forgiven every minute, evenly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from shared.settings.budget import Limit, Unit, Window

# A debt is counted in 60,000ths, so that one millisecond forgives a whole number of them.
SCALE = 60_000
_DAY = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Milliseconds after which it is worth asking again when others have reserved what is missing: calls take seconds.
SOON = 2_000
# Reservations that ended are given back so many at a time.
AT_ONCE = 100
# Of the running mean of passages, the part that the latest call has: 1 of 8.
_MEMORY = 8


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens, and money in millionths of a US dollar."""

    tokens: int = 0
    usd: int = 0

    def of(self, unit: Unit) -> int:
        """The part in `unit`."""
        return self.tokens if unit is Unit.TOKENS else self.usd


@dataclass(slots=True)
class Account:
    """What was spent and is held of one unit in one scope; days and months as numbers that only grow."""

    held: int = 0
    day: int = 0
    day_spent: int = 0
    day_overrun: int = 0
    month: int = 0
    month_spent: int = 0
    month_overrun: int = 0
    debt: int = 0
    at: int = 0
    """Milliseconds since the epoch, of `debt`."""

    def turn(self, now: int) -> None:
        """Begin the day and the month of `now`; a clock that steps back begins none."""
        if (day := now // _DAY) > self.day:
            self.day, self.day_spent, self.day_overrun = day, 0, 0
        if (month := month_of(now)) > self.month:
            self.month, self.month_spent, self.month_overrun = month, 0, 0

    def forgive(self, per_minute: int | None, now: int) -> None:
        """Take off the debt what the time since the last look forgives; all of it when no minute is limited."""
        gone = max(0, now - self.at) * per_minute if per_minute is not None else self.debt
        self.debt, self.at = max(0, self.debt - gone), max(self.at, now)

    def used(self, window: Window) -> int:
        """Spent and overrun in the present day or month."""
        return self.day_spent + self.day_overrun if window is Window.DAY else self.month_spent + self.month_overrun

    def left(self, limit: Limit) -> int:
        """What may still be reserved of `limit`; not negative."""
        taken = -(-self.debt // SCALE) if limit.window is Window.MINUTE else self.used(limit.window) + self.held
        return max(0, limit.most - taken)

    def wait(self, limit: Limit, wanted: int, now: int) -> int:
        """Milliseconds until `wanted`, which is not above `limit`, fits into it; 0: now."""
        if limit.window is Window.MINUTE:
            too_much = self.debt + (wanted - limit.most) * SCALE
            return max(0, -(-too_much // limit.most)) if limit.most else 0
        used = self.used(limit.window)
        if used + self.held + wanted <= limit.most:
            return 0
        ends = until_next(limit.window, now)
        return min(SOON, ends) if used + wanted <= limit.most else ends


@dataclass(frozen=True, slots=True)
class Hold:
    """A reservation, until `ends` (milliseconds since the epoch)."""

    amount: Amount
    scopes: tuple[str, ...]
    ends: int


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a limit is left, and the seconds until all of it is, or its day or month ends."""

    limit: Limit
    left: int
    resets_after: int


@dataclass(slots=True)
class Accounts:
    """The accounts of one tenant, and what is held in them."""

    accounts: dict[tuple[Unit, str], Account] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)

    def reserve(
        self, name: str, hold: Hold, limits: Sequence[Limit], now: int, *, instead: str = "", keep: bool = False
    ) -> int | None:
        """Milliseconds until `hold` fits under all `limits`; 0: it is held as `name`, now or before; None: never.

        `instead` names a reservation that is given back first, whatever the result; with `keep` only as much of it as
        `hold` needs.
        """
        self._give_back_ended(now)
        if name in self.holds:
            return 0
        before = self.release(instead) if instead else None
        rest = Amount()
        if before is not None and keep:
            rest = Amount(
                max(0, before.amount.tokens - hold.amount.tokens), max(0, before.amount.usd - hold.amount.usd)
            )
        self._bring_up_to(now, hold.scopes, limits)
        waits = []
        for limit in limits:
            wanted = hold.amount.of(limit.unit) + rest.of(limit.unit)
            if wanted > limit.most:
                return None
            waits.append(self._account(limit.unit, limit.scope, now).wait(limit, wanted, now))
        if any(waits):
            return max(waits)
        self._hold(name, hold, limits, now)
        if before is not None and rest != Amount():
            self._hold(instead, Hold(rest, before.scopes, before.ends), limits, now)
        return 0

    def settle(self, name: str, used: Amount, scopes: Sequence[str], limits: Sequence[Limit], now: int) -> None:
        """Spend `used` in the place of the reservation `name`.

        What is beyond the reservation is an overrun; without one, what is beyond the limits.
        """
        hold = self.release(name)
        self._bring_up_to(now, scopes, limits)
        minutes = _minutes(limits)
        for unit in Unit:
            amount = used.of(unit)
            for scope in scopes:
                account = self._account(unit, scope, now)
                room = [
                    max(0, limit.most - account.used(limit.window) - account.held)
                    for limit in limits
                    if (limit.unit, limit.scope) == (unit, scope) and limit.window is not Window.MINUTE
                ]
                most = hold.amount.of(unit) if hold is not None else min(room, default=amount)
                spent = min(amount, most)
                account.day_spent += spent
                account.month_spent += spent
                account.day_overrun += amount - spent
                account.month_overrun += amount - spent
                if (unit, scope) in minutes:
                    account.debt += amount * SCALE

    def release(self, name: str) -> Hold | None:
        """Give the reservation `name` back; None: there is none."""
        hold = self.holds.pop(name, None)
        if hold is not None:
            for unit in Unit:
                for scope in hold.scopes:
                    account = self.accounts.setdefault((unit, scope), Account())
                    account.held = max(0, account.held - hold.amount.of(unit))
                    account.debt = max(0, account.debt - hold.amount.of(unit) * SCALE)
        return hold

    def quotas(self, limits: Iterable[Limit], now: int) -> list[Quota]:
        """What is left of each limit."""
        found = []
        for limit in limits:
            account = self._account(limit.unit, limit.scope, now)
            resets = until_next(limit.window, now)
            if limit.window is Window.MINUTE:
                resets = -(-account.debt // limit.most) if limit.most else 0
            found.append(Quota(limit, account.left(limit), -(-resets // 1_000)))
        return found

    def _hold(self, name: str, hold: Hold, limits: Sequence[Limit], now: int) -> None:
        self.holds[name] = hold
        minutes = _minutes(limits)
        for unit in Unit:
            for scope in hold.scopes:
                account = self._account(unit, scope, now)
                account.held += hold.amount.of(unit)
                if (unit, scope) in minutes:
                    account.debt += hold.amount.of(unit) * SCALE

    def _give_back_ended(self, now: int) -> None:
        ended = sorted((hold.ends, name) for name, hold in self.holds.items() if hold.ends <= now)
        for _, name in ended[:AT_ONCE]:
            self.release(name)

    def _bring_up_to(self, now: int, scopes: Sequence[str], limits: Sequence[Limit]) -> None:
        minutes = _minutes(limits)
        for unit in Unit:
            for scope in scopes:
                self._account(unit, scope, now).forgive(minutes.get((unit, scope)), now)

    def _account(self, unit: Unit, scope: str, now: int) -> Account:
        account = self.accounts.setdefault((unit, scope), Account())
        account.turn(now)
        return account


def _minutes(limits: Iterable[Limit]) -> Mapping[tuple[Unit, str], int]:
    """The limits of a minute, by account."""
    found = {(each.unit, each.scope): each.most for each in limits if each.window is Window.MINUTE}
    return MappingProxyType(found)


def month_of(now: int) -> int:
    """The months from year 0 to `now`, milliseconds since the epoch."""
    at = _EPOCH + timedelta(milliseconds=now)
    return at.year * 12 + at.month - 1


def until_next(window: Window, now: int) -> int:
    """Milliseconds from `now` until the next day or month begins; of a minute, all of it."""
    if window is Window.MINUTE:
        return SCALE
    at = _EPOCH + timedelta(milliseconds=now)
    begins = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    while window is Window.MONTH and begins.day != 1:
        begins += timedelta(days=1)
    return (begins - at) // timedelta(milliseconds=1)


def mean(before: int | None, latest: int) -> int:
    """The running mean after another value."""
    return latest if before is None else before + (latest - before) // _MEMORY
