"""The part of the command line that says what it waits for."""

import math
import time
from datetime import datetime, timedelta
from typing import Final

import typer

from .errors import ClientError, Problem
from .waiting import Waiting

# Many requests of a folder may wait for the same reason.
_AGAIN_AFTER_S: Final = 10.0


class WaitNotice:
    """Says on stderr what the command waits for and until when; at most once in ten seconds for the same reason."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, waiting: Waiting) -> None:
        """Say it, unless it was said just now."""
        kind, now = _kind(waiting.reason), time.monotonic()
        if now - self._said.get(kind, -math.inf) < _AGAIN_AFTER_S:
            return
        self._said[kind] = now
        typer.echo(f"waiting: {notice_of(waiting, datetime.now())}", err=True)  # noqa: DTZ005 - a person's clock


def notice_of(waiting: Waiting, now: datetime) -> str:
    """The reason, the next attempt and the end of a wait, in one line.

    Args:
        waiting: The wait.
        now: Time of day.
    """
    end = (now + timedelta(seconds=waiting.gives_up_s)).strftime("%H:%M:%S")
    reason = str(waiting.reason).rstrip(".")
    return f"{reason}. Next attempt in {math.ceil(waiting.next_attempt_s)} s, the last one before {end} (--retry)"


def _kind(reason: ClientError) -> str:
    return reason.code if isinstance(reason, Problem) else type(reason).__name__
