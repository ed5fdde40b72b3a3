"""The cloud on a laptop, started and stopped as one: `async with Stack(folder, ports="free") as stack`."""

from local.stack.errors import CannotStart, Died, StackError
from local.stack.stack import NO_WORKERS, Stack, from_environment

__all__ = ["NO_WORKERS", "CannotStart", "Died", "Stack", "StackError", "from_environment"]
