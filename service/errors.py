"""Every error a caller can be told about. Knows nothing of gRPC or HTTP: a status is a name.

AttendantError
├── InvalidArgument           INVALID_ARGUMENT     INVALID_REQUEST
│   ├── UndecodableMessage                         UNDECODABLE_MESSAGE
│   ├── InvalidOption                              INVALID_OPTION
│   ├── InvalidText                                INVALID_TEXT
│   │   └── TextTooLong                            TEXT_TOO_LONG
│   └── InvalidImage                               INVALID_IMAGE
│       └── ImageTooLarge                          IMAGE_TOO_LARGE
├── Unauthenticated           UNAUTHENTICATED      UNAUTHENTICATED
├── NotFound                  NOT_FOUND            NOT_FOUND
│   ├── ModelNotFound                              MODEL_NOT_FOUND
│   └── LanguagePairNotFound                       LANGUAGE_PAIR_NOT_FOUND
├── ResourceExhausted         RESOURCE_EXHAUSTED   RESOURCE_EXHAUSTED
│   ├── MessageTooLarge                            MESSAGE_TOO_LARGE
│   ├── Overloaded                                 QUEUE_FULL
│   │   └── CallerQueueFull                        CALLER_QUEUE_FULL
│   └── DeadlineUnreachable                        DEADLINE_UNREACHABLE
├── Unavailable               UNAVAILABLE          UNAVAILABLE
│   ├── Starting                                   STARTING
│   ├── Draining                                   DRAINING
│   ├── ModelUnavailable                           MODEL_UNAVAILABLE
│   └── NoMemory                                   NO_MEMORY
└── InternalError             INTERNAL             INTERNAL
BundleError                   never reaches a caller
"""

from typing import ClassVar

ERROR_DOMAIN = "attendant"


class AttendantError(Exception):
    """A gRPC status by name, a reason from the closed list above and a message for people.

    `field` is the path of what is wrong in the request (`contents[3]`, `options.beam_size`).
    `retry_after_seconds` says when a retry may succeed; None means that nothing is known, or, for a
    class with `pushback`, that a retry cannot help.
    """

    status: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"
    pushback: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds


class InvalidArgument(AttendantError):
    """The request is wrong whatever the state of the server."""

    status = "INVALID_ARGUMENT"
    reason = "INVALID_REQUEST"


class UndecodableMessage(InvalidArgument):
    """The bytes of the request are not the message they should be."""

    reason = "UNDECODABLE_MESSAGE"


class InvalidOption(InvalidArgument):
    """An option is out of its range or contradicts another."""

    reason = "INVALID_OPTION"


class InvalidText(InvalidArgument):
    """One text cannot be translated."""

    reason = "INVALID_TEXT"


class TextTooLong(InvalidText):
    """One text is over `max_text_bytes`."""

    reason = "TEXT_TOO_LONG"


class InvalidImage(InvalidArgument):
    """One image cannot be decoded."""

    reason = "INVALID_IMAGE"


class ImageTooLarge(InvalidImage):
    """One image has more than `max_image_pixels`, or than 65 535 on a side."""

    reason = "IMAGE_TOO_LARGE"


class Unauthenticated(AttendantError):
    """The caller has no token that is known, or over HTTP no client certificate."""

    status = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class NotFound(AttendantError):
    """What the request names does not exist here."""

    status = "NOT_FOUND"
    reason = "NOT_FOUND"


class ModelNotFound(NotFound):
    """No model of this name, version or task."""

    reason = "MODEL_NOT_FOUND"


class LanguagePairNotFound(NotFound):
    """No model serves this pair of languages."""

    reason = "LANGUAGE_PAIR_NOT_FOUND"


class ResourceExhausted(AttendantError):
    """Refused at the door, before anything of the call was done, or given up for its deadline."""

    status = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"
    pushback = True


class MessageTooLarge(ResourceExhausted):
    """An HTTP body is over `max_message_bytes`; of gRPC's own refusal no reason is given."""

    reason = "MESSAGE_TOO_LARGE"


class Overloaded(ResourceExhausted):
    """The queue is full."""

    reason = "QUEUE_FULL"


class CallerQueueFull(Overloaded):
    """The caller has as much in the queue as one caller may."""

    reason = "CALLER_QUEUE_FULL"


class DeadlineUnreachable(ResourceExhausted):
    """The answer would come after the caller's deadline, or make another call miss its own."""

    reason = "DEADLINE_UNREACHABLE"


class Unavailable(AttendantError):
    """Not now; another replica may answer."""

    status = "UNAVAILABLE"
    reason = "UNAVAILABLE"


class Starting(Unavailable):
    """The models are still being loaded."""

    reason = "STARTING"


class Draining(Unavailable):
    """The server is shutting down and takes no new calls."""

    reason = "DRAINING"


class ModelUnavailable(Unavailable):
    """The model exists but cannot serve: it is loading or has failed."""

    reason = "MODEL_UNAVAILABLE"


class NoMemory(Unavailable):
    """Memory lacks now, even for this text or image alone."""

    reason = "NO_MEMORY"


class InternalError(AttendantError):
    """Our bug. The text is fixed, so that nothing of the inside leaks out."""

    MESSAGE: ClassVar[str] = "internal error; the server's log has it under this request id"

    def __init__(self) -> None:
        super().__init__(self.MESSAGE)


class BundleError(Exception):
    """A bundle on disk is not what it says it is; the message says what was expected and found."""
