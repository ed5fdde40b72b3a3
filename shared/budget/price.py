"""What calls cost, in whole millionths of a US dollar. Pure."""

import math

from shared.budget.rules import Amount
from shared.llm.deployments import Price


def amount(price: Price, prompt_tokens: int, completion_tokens: int) -> Amount:
    """The tokens of a call, and their price; a started millionth of a dollar counts as one.

    A price in dollars per million tokens is one in millionths per token.
    """
    exact = prompt_tokens * price.input + completion_tokens * price.output
    # Binary fractions: 0.15 * 20 is 3.0000000000000004 or so, which is not a fourth millionth.
    return Amount(prompt_tokens + completion_tokens, math.ceil(round(exact, 6)))
