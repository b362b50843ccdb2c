"""Retry policy. All requests of this client are idempotent, so each may be repeated."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .waiting import OnWait


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, so that clients that failed together do not all return at once.

    Args:
        retry_s: Time after the first attempt in which another one may begin, in seconds. 0 disables repetition.
        first_s: Upper bound of the first wait, in seconds. It doubles with each attempt.
        longest_s: Upper bound of each wait, in seconds.
        on_wait: Callback in each wait, from one second after the first attempt; None for none.

    Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """

    retry_s: float
    first_s: float = 0.25
    longest_s: float = 8.0
    on_wait: OnWait | None = None

    def wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Seconds to wait before the next attempt, at least those that the service asks for.

        Args:
            attempt: Number of failures before this one.
            retry_after_s: Seconds that the service asks for, if it does.
        """
        jitter = random.uniform(0.0, min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30)))  # noqa: S311
        return (retry_after_s or 0.0) + jitter


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3); None if it is missing or malformed."""
    if header is None:
        return None
    text = header.strip()
    if text.isdecimal() and len(text) <= 9:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # the zone "-0000" is parsed without one; HTTP dates are in GMT
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
