"""How a refusal is said: `<Error><Code>404</Code><Detail>SubCode=40400. …</Detail></Error>`.

400  40000  a property, a name or the body is not what it must be
400  40400  what messages are forwarded to is not there
401  40100  no valid token with the right to manage
403  40300  a quota is used up
404  40400  no such entity
405  40500  not with this method
409  40900  the name is taken
412  41200  the entity has changed since
"""

from typing import Final

from servicebus_local.admin.http import Response
from servicebus_local.admin.xml import tag
from servicebus_local.bus.errors import BusError, InvalidArgument

XML_TYPE: Final = "application/xml; charset=utf-8"


class TargetMissing(InvalidArgument):
    """What messages are to be forwarded to is not there."""

    sub_code = 40400


class Outdated(BusError):
    """The entity is not as it was when the client looked at it."""

    status = 412


def refuse(status: int, sentence: str, sub_code: int | None = None, **headers: str) -> Response:
    """Answer a request that is not granted."""
    detail = f"SubCode={sub_code or status * 100}. {sentence}"
    body = f"<Error>{tag('Code', str(status))}{tag('Detail', detail)}</Error>"
    return Response(status, XML_TYPE, body.encode(), tuple(headers.items()))


def refusal(error: BusError) -> Response:
    """Answer with what the bus, or the administration, refuses."""
    return refuse(error.status, error.description, getattr(error, "sub_code", None))
