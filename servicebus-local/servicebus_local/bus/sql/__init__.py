"""The SQL of rules: lexer -> parser -> operators, which are functions of a message's properties.

`compile_filter` and `compile_action` are the way in; an evaluation may raise `FilterError`.
"""

from servicebus_local.bus.sql.operators import Condition, Statement
from servicebus_local.bus.sql.parser import compile_action, compile_filter
from servicebus_local.bus.sql.values import equal

__all__ = ["Condition", "Statement", "compile_action", "compile_filter", "equal"]
