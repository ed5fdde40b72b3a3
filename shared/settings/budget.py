"""What may be spent, as callers.yaml and the use cases say it.

budget:
  tokens: {minute: 120000, day: 5000000, month: 100000000}
  usd: {day: 20, month: 300}

Each limit stands alone; what is not limited is left out. A minute refills evenly; days and months are those of UTC.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from shared.contracts.request import Request
from shared.settings.files import Section

TENANT = "tenant"
# Times 60,000 (milliseconds of a minute) it is still a whole number in Lua, whose numbers are doubles.
MOST = 10**11
MICROS = 1_000_000


class Unit(StrEnum):
    """What is counted: tokens, or money in millionths of a US dollar."""

    TOKENS = "tokens"
    USD = "usd"


class Window(StrEnum):
    """The time that a limit is for."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` tokens, or millionths of a US dollar, in a `window`.

    `scope`: whose spending it limits within a tenant: `tenant`, `use_case:{name}` or `caller:{name}`.
    """

    scope: str
    unit: Unit
    window: Window
    most: int


def scopes(request: Request) -> tuple[str, str, str]:
    """Whose spending a call for `request` is, within its tenant: all of it, its use case's, its caller's."""
    return TENANT, f"use_case:{request.use_case}", f"caller:{request.caller}"


Tokens = Annotated[int, Field(gt=0, le=MOST)]
Dollars = Annotated[Decimal, Field(gt=0, le=MOST // MICROS, decimal_places=6)]


class TokenLimits(Section):
    """The most tokens, prompt and answer together."""

    minute: Tokens | None = None
    day: Tokens | None = None
    month: Tokens | None = None


class MoneyLimits(Section):
    """The most US dollars, by the prices in models.yaml."""

    minute: Dollars | None = None
    day: Dollars | None = None
    month: Dollars | None = None


class Budget(Section):
    """The limits of a tenant, a use case or a caller."""

    tokens: TokenLimits = TokenLimits()
    usd: MoneyLimits = MoneyLimits()

    def limits(self, scope: str) -> Iterator[Limit]:
        """Every limit of this budget, for `scope`."""
        for window in Window:
            tokens, dollars = getattr(self.tokens, window), getattr(self.usd, window)
            if tokens is not None:
                yield Limit(scope, Unit.TOKENS, window, tokens)
            if dollars is not None:
                yield Limit(scope, Unit.USD, window, int(dollars * MICROS))
