"""Everything that can keep a caller from an answer.

    ClientError
    ├── Unreachable           no answer came: refused, unknown host, silent, cut off
    ├── UnexpectedAnswer      something answered, but not as this service does
    └── Problem               the service says what is wrong (RFC 9457)
        ├── Unauthorized      401, 403: an API key is needed, or one that may do this
        ├── EmbeddingNotFound 404: the picture is not embedded, or not any more
        ├── MaskNotFound      404: the mask_id is unknown or has expired
        ├── PictureRefused    the picture is broken, too large, or of no supported format
        ├── PromptRefused     the prompts break a rule
        └── Busy              429, 502, 503, 504: it was repeated for as long as the caller allows

Arguments that no service could take raise ValueError, files that cannot be read OSError.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

BUSY_STATUSES = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """There is no answer to work with."""

    retry_after_s: float | None = None


class Unreachable(ClientError):
    """Nothing answered in time."""


class UnexpectedAnswer(ClientError):
    """What answered is not this service, or something stands between."""


class Problem(ClientError):
    """The service's own description of what is wrong.

    Args:
        status: of HTTP.
        code: stable name of the problem, such as "overloaded".
        detail: what is wrong in this case and what to do.
        request_id: names the request in the service's log.
        retry_after_s: what the service asks to wait, seconds.
        extra: further members of the problem document.
    """

    codes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        request_id: str = "",
        retry_after_s: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{detail} ({status} {code}, request {request_id or 'unknown'})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.extra = dict(extra or {})


class Unauthorized(Problem):
    """The service asks for an API key, and none, a wrong one, or one that may not do this was sent."""

    codes = frozenset({"unauthorized", "forbidden"})


class EmbeddingNotFound(Problem):
    """The picture is not embedded, or was evicted and could not be embedded again."""

    codes = frozenset({"embedding-not-found"})


class MaskNotFound(Problem):
    """The mask to refine is unknown for this picture, or has expired."""

    codes = frozenset({"mask-not-found"})


class PictureRefused(Problem):
    """Another picture, or the same one saved anew, may be taken."""

    codes = frozenset(
        {"unsupported-image", "undecodable-image", "image-too-large", "body-too-large", "unusable-aspect-ratio"}
    )


class PromptRefused(Problem):
    """The prompts break a rule; `extra["errors"]` may say where."""

    codes = frozenset({"prompt-outside-image", "invalid-request"})


class Busy(Problem):
    """The service cannot do it now."""

    codes = frozenset({"overloaded", "rate-limited", "cache-unavailable", "not-ready", "deadline-exceeded"})


_KINDS = {
    code: kind
    for kind in (Unauthorized, EmbeddingNotFound, MaskNotFound, PictureRefused, PromptRefused, Busy)
    for code in kind.codes
}
# What an answer without a body means: those to HEAD, and those of proxies.
_PLAIN = {
    401: ("unauthorized", "The service asks for an API key and does not know this one."),
    403: ("forbidden", "The API key may not do this."),
    404: ("embedding-not-found", "The picture is not embedded."),
    429: ("too-many-requests", "Something before the service limits the number of requests."),
    502: ("bad-gateway", "The proxy before the service got no answer from it."),
    503: ("unavailable", "The service, or the proxy before it, takes no work now."),
    504: ("gateway-timeout", "The proxy before the service got no answer in time."),
}


def problem_of(
    status: int, content: bytes, *, is_document: bool, request_id: str, retry_after_s: float | None
) -> ClientError:
    """The error that an answer stands for.

    Args:
        status: 400 or more.
        content: the body.
        is_document: whether the body says that it is a problem document; without one, only a few statuses have a
            meaning of their own.
        request_id: of the answer's headers.
        retry_after_s: of the answer's headers.
    """
    document = _json_object(content) if is_document else {}
    code, detail = document.pop("code", None), document.pop("detail", None)
    if not (isinstance(code, str) and isinstance(detail, str)):
        if status not in _PLAIN or (status == 404 and content):
            return UnexpectedAnswer(f"HTTP {status} without a problem document: is this the service's address?")
        code, detail = _PLAIN[status]
    kind = _KINDS.get(code, Busy if status in BUSY_STATUSES else Problem)
    return kind(status, code, detail, request_id=request_id, retry_after_s=retry_after_s, extra=document)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
