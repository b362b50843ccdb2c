"""What a client waits for between two attempts at a request, for a caller that wants to say so."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .errors import ClientError

SAID_AFTER_S: Final = 1.0
"""Time since a request's first attempt after which a wait is passed on, in seconds."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A wait before a request is repeated.

    Args:
        reason: Error of the last attempt: `Unreachable` or `Busy`.
        next_attempt_s: Time until the next attempt, in seconds.
        gives_up_s: Time until the last moment at which another attempt may begin, in seconds.
    """

    reason: ClientError
    next_attempt_s: float
    gives_up_s: float


# Called in each wait, from one second after the first attempt of its request.
OnWait = Callable[[Waiting], None]
