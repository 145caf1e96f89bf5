"""All errors that edged raises on purpose: each has a code on the wire and a fate (answered, handed back, or fatal).

Knows nothing of MQTT, torch or logs. A `RequestError` answers one request; a `FatalError` ends the process.
"""

from enum import IntEnum, StrEnum
from typing import ClassVar


class Fate(StrEnum):
    """What happens to the delivery (or the process) in which the error occurred."""

    REJECT = "reject"  # answered with an error and settled: it would fail again
    RETRY = "retry"  # handed back to the broker unacked; answered only where the broker keeps no copy (QoS 0)
    DIE = "die"  # the process ends with the class's exit code


class ExitCode(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    USAGE = 2  # a wrong flag or setting
    MODEL = 3  # the model is missing, broken or does not fit
    BROKER = 4  # the broker refuses us, or another daemon has our name
    INTERRUPTED = 5  # stopped with work unfinished; the broker still has it
    BUG = 70  # a fault of ours (EX_SOFTWARE of sysexits.h)


class EdgedError(Exception):
    """The root of every error that edged raises on purpose."""

    fate: ClassVar[Fate]


class RequestError(EdgedError):
    """One request cannot be answered; the caller is told why.

    Attributes:
        message: what is wrong and what to do, in words; never the user's text.
        field: the request's field at fault, as a dotted path, if one is.
        retry_after_ms: when another try may succeed.
    """

    code: ClassVar[str]
    fate = Fate.REJECT

    def __init__(self, message: str, *, field: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms


class BadRequest(RequestError):
    """The request is not of the contract's form."""

    code = "bad_request"


class TooLarge(RequestError):
    """The payload or the text is over the limit, or the result is over the broker's."""

    code = "too_large"


class UnknownTask(RequestError):
    """The topic names a task that this daemon does not have."""

    code = "unknown_task"


class BadEncoding(RequestError):
    """The payload is not UTF-8."""

    code = "bad_encoding"


class ForbiddenTopic(RequestError):
    """The request asks for an answer on a topic where the daemon may not publish."""

    code = "forbidden_topic"


class Busy(RequestError):
    """This box cannot take the request: its queue is full (QoS 0), or another box must do the work."""

    code = "busy"


class Expired(RequestError):
    """The message's expiry or the request's deadline passed before work began."""

    code = "expired"


class Cancelled(RequestError):
    """Somebody cancelled the request before it had an answer."""

    code = "cancelled"


class TooLong(RequestError):
    """The text does not fit the model's context, even without any history."""

    code = "too_long"


class ModelError(RequestError):
    """The model failed on this request."""

    code = "model_error"


class ShuttingDown(RequestError):
    """The daemon is going down: the broker keeps a QoS 1 request for the next one."""

    code = "shutting_down"
    fate = Fate.RETRY


class JournalFault(EdgedError):
    """The journal cannot be read or written now; the message says why. Requests are answered all the same."""

    fate = Fate.RETRY


class BackupFault(EdgedError):
    """A backup cannot be made, read or restored; the message says why."""

    fate = Fate.REJECT


class FatalError(EdgedError):
    """The process cannot go on; `exit_code` tells systemd and scripts why."""

    fate = Fate.DIE
    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class SettingsError(FatalError):
    """A setting is wrong; the message names it and what is allowed."""

    exit_code = ExitCode.USAGE


class ModelUnavailable(FatalError):
    """The model cannot be fetched, read or run here; the message names the remedy."""

    exit_code = ExitCode.MODEL


class NotEnoughMemory(ModelUnavailable):
    """The model does not fit into the memory that is free now.

    Attributes:
        missing_bytes: how much more it takes.
    """

    def __init__(self, message: str, *, missing_bytes: int) -> None:
        super().__init__(message)
        self.missing_bytes = missing_bytes


class NameTaken(FatalError):
    """A daemon of this name runs already, and goes on."""

    exit_code = ExitCode.BROKER


class BrokerUnavailable(FatalError):
    """The broker refuses us for good, or cannot be reached by a command that needs it now."""

    exit_code = ExitCode.BROKER
