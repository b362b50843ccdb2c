"""Preferences of a request: the header Prefer (RFC 7240)."""

from typing import Final

from starlette.requests import Request

PREFETCH: Final = "prefetch"
"""Preference for loading the embedding of an image ahead of prompts."""


def prefers(request: Request, name: str) -> bool:
    """Return whether a request has a preference without a value. Parameters of the preference are ignored.

    Args:
        request: Request, which may have several headers Prefer. Text in quotes is not parsed: a comma there ends the
            preference, too.
        name: Name of the preference, in lower case.
    """
    listed = ",".join(request.headers.getlist("prefer")).split(",")
    return any(each.partition(";")[0].strip().lower() == name for each in listed)
