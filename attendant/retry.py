"""When a failed call is tried again: a policy and the state of one call. Knows no transport.

UNAVAILABLE is tried again with exponential backoff and jitter, and so is a call that its server cut
off. RESOURCE_EXHAUSTED is tried again only where the server's `grpc-retry-pushback-ms` says when;
without it, or below 0, a retry cannot help. Nothing else is tried again, and nothing beyond the
call's deadline.
"""

import random
import re
import time
from dataclasses import dataclass, field

import grpc

from attendant.errors import (
    RETRY_PUSHBACK_KEY,
    AttendantError,
    Cancelled,
    InternalError,
    ResourceExhausted,
    Unavailable,
    error_from_call,
    trailers_of,
)

# What ray.exceptions.ActorDiedError and ActorUnavailableError begin with.
_RAY_LOST_REPLICA = re.compile(r"The actor (died|\S+ is unavailable)")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried and how long is waited in between, up to the call's deadline."""

    max_attempts: int = 5
    initial_backoff_seconds: float = 0.2
    backoff_multiplier: float = 2.0
    max_backoff_seconds: float = 5.0

    def backoff_seconds(self, num_attempts: int) -> float:
        """The wait after this many attempts: half of it fixed, half of it random.

        The random half keeps callers that failed together from returning together.
        """
        growth = self.backoff_multiplier ** (num_attempts - 1)
        backoff = min(self.initial_backoff_seconds * growth, self.max_backoff_seconds)
        return backoff * random.uniform(0.5, 1.0)


@dataclass(slots=True)
class Attempts:
    """The attempts of one call, which share a deadline and a request id.

    `answered` is set when a stream's first event has arrived: a retry would send it a second time.
    """

    policy: RetryPolicy
    timeout_seconds: float
    request_id: str
    other_metadata: tuple[tuple[str, str], ...] = ()
    num_attempts: int = 0
    answered: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every attempt sends along."""
        return (("x-request-id", self.request_id), *self.other_metadata)

    def begin(self) -> float:
        """Counts an attempt and returns the seconds left for it."""
        self.num_attempts += 1
        return max(0.0, self._seconds_left())

    def wait_seconds(self, failure: grpc.RpcError) -> float:
        """How long to wait before the next attempt; raises the error if there is to be none."""
        error = error_from_call(failure, self.request_id)
        wait = self._requested_wait(error, failure)
        is_last = self.answered or self.num_attempts >= self.policy.max_attempts
        if wait is None or is_last or wait >= self._seconds_left():
            raise error from failure
        return wait

    def _requested_wait(self, error: AttendantError, failure: grpc.RpcError) -> float | None:
        pushback = _pushback_seconds(failure)
        if pushback is not None and pushback < 0:
            return None
        if isinstance(error, Unavailable) or _was_cut_off(error):
            backoff = self.policy.backoff_seconds(self.num_attempts)
            return backoff if pushback is None else pushback
        return pushback if isinstance(error, ResourceExhausted) else None

    def _seconds_left(self) -> float:
        return self.started + self.timeout_seconds - time.monotonic()


def _was_cut_off(error: AttendantError) -> bool:
    """Whether the call came to a server that shut down before any code of it saw the call, or whose
    end is told as another error.

    A gRPC server (tried: grpcio 1.85) resets what comes in while it stops, which arrives as
    CANCELLED with this text; what is cancelled on this side has others. Where a replica or its node
    dies, Ray Serve's proxy (tried: 2.60) says INTERNAL and these words; our own INTERNAL has a
    reason.
    """
    if isinstance(error, InternalError):
        return not error.reason and _RAY_LOST_REPLICA.match(error.message) is not None
    return isinstance(error, Cancelled) and error.message == "CANCELLED"


def _pushback_seconds(failure: grpc.RpcError) -> float | None:
    """What the server asks for; None if it asks for nothing, negative to forbid a retry."""
    value = trailers_of(failure).get(RETRY_PUSHBACK_KEY)
    if value is None:
        return None
    try:
        return int(value) / 1000
    except ValueError:
        return -1.0  # gRPC's rule: a value that is not a number forbids a retry
