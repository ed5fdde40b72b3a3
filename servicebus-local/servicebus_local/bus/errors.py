"""What the bus refuses, under the conditions the SDKs know.

BusError
├── MessageLockLost       com.microsoft:message-lock-lost        410
├── SessionLockLost       com.microsoft:session-lock-lost        410
├── SessionCannotBeLocked com.microsoft:session-cannot-be-locked 409
├── MessageNotFound       com.microsoft:message-not-found        404
├── EntityNotFound        amqp:not-found                         404
├── NotAllowed            amqp:not-allowed                       400
├── InvalidArgument       com.microsoft:argument-error           400
├── TimedOut              com.microsoft:timeout                  408
├── TooLarge              amqp:link:message-size-exceeded        400
├── Unauthorized          amqp:unauthorized-access               401
├── AccessExpired         amqp:link:detach-forced                401
├── EntityDisabled        com.microsoft:entity-disabled          403
├── EntityExists          com.microsoft:entity-already-exists    409
├── QuotaExceeded         amqp:resource-limit-exceeded           403
├── HopsExceeded          amqp:not-allowed                       400
├── FilterError           com.microsoft:argument-error           400
├── ServerBusy            com.microsoft:server-busy              503
└── NotImplementedHere    amqp:not-implemented                   501
"""


class BusError(Exception):
    """A refusal as the client gets it: a condition of AMQP, an HTTP-like status and a sentence."""

    condition = "amqp:internal-error"
    status = 500
    reason = "AutoForwardFailed"
    """What a dead letter says when this is why it is one."""

    @property
    def description(self) -> str:
        """The sentence for the person who reads the client's log."""
        return str(self)


class MessageLockLost(BusError):
    """The message is not locked, or not any more, under this token."""

    condition = "com.microsoft:message-lock-lost"
    status = 410


class SessionLockLost(BusError):
    """The session is not locked, or not any more, by this receiver."""

    condition = "com.microsoft:session-lock-lost"
    status = 410


class SessionCannotBeLocked(BusError):
    """Another receiver holds the session."""

    condition = "com.microsoft:session-cannot-be-locked"
    status = 409


class MessageNotFound(BusError):
    """No such message, or not in the state that was asked for."""

    condition = "com.microsoft:message-not-found"
    status = 404


class EntityNotFound(BusError):
    """No such entity."""

    condition = "amqp:not-found"
    status = 404


class NotAllowed(BusError):
    """The entity exists, but not for this use."""

    condition = "amqp:not-allowed"
    status = 400


class InvalidArgument(BusError):
    """A field of the request makes no sense."""

    condition = "com.microsoft:argument-error"
    status = 400


class TimedOut(BusError):
    """What was waited for did not happen in time."""

    condition = "com.microsoft:timeout"
    status = 408


class TooLarge(BusError):
    """The message is above the limit."""

    condition = "amqp:link:message-size-exceeded"
    status = 400


class Unauthorized(BusError):
    """No valid token covers this address."""

    condition = "amqp:unauthorized-access"
    status = 401


class AccessExpired(BusError):
    """The token that opened this link has expired, and no newer one was shown."""

    condition = "amqp:link:detach-forced"  # as Azure says it: clients come back with a fresh token
    status = 401


class EntityDisabled(BusError):
    """The entity is there, but switched off for this use."""

    condition = "com.microsoft:entity-disabled"
    status = 403


class EntityExists(BusError):
    """The name is taken."""

    condition = "com.microsoft:entity-already-exists"
    status = 409


class QuotaExceeded(BusError):
    """The entity is as large as it may be."""

    condition = "amqp:resource-limit-exceeded"
    status = 403


class HopsExceeded(BusError):
    """The message was forwarded too often."""

    condition = "amqp:not-allowed"
    status = 400
    reason = "MaxTransferHopCountExceeded"


class ServerBusy(BusError):
    """Too much is asked for at the moment; come back later."""

    condition = "com.microsoft:server-busy"
    status = 503


class FilterError(BusError):
    """A rule could not be evaluated for this message."""

    condition = "com.microsoft:argument-error"
    status = 400
    reason = "FilterException"  # Azure's dead letters say the name of the .NET exception


class NotImplementedHere(BusError):
    """Azure can do this; the local broker cannot."""

    condition = "amqp:not-implemented"
    status = 501
