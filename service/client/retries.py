"""When a request is sent again. Every request of this client may be: a repetition changes nothing."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is repeated, and the waits in between: with full jitter, so that clients that failed together
    do not come back together.

    Args:
        retry_s: no attempt begins later than this after the first one, seconds; 0 repeats nothing.
        first_s: bound of the first wait, seconds; it doubles with every attempt.
        longest_s: bound of every wait, seconds.

    Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """

    retry_s: float
    first_s: float = 0.25
    longest_s: float = 8.0

    def wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Seconds to wait after failure number `attempt`, counted from 0; never less than the service asks for."""
        jitter = random.uniform(0.0, min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30)))  # noqa: S311
        return (retry_after_s or 0.0) + jitter


def retry_after_s(header: str | None) -> float | None:
    """A Retry-After header as seconds from now; None without one that can be read (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    text = header.strip()
    if text.isdecimal() and len(text) <= 9:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000" says nothing about the zone; HTTP knows only GMT
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
