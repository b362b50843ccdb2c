"""Errors of the client.

    ClientError
    ├── Unreachable           no answer: connection refused, unknown host, timeout, connection closed
    ├── UnexpectedAnswer      the answer is not from this service
    └── Problem               the service refused the request (RFC 9457)
        ├── Unauthorized      401, 403: the API key is missing, wrong, or lacks a permission
        ├── EmbeddingNotFound 404: the image is not embedded, or was evicted
        ├── MaskNotFound      404: the mask_id is unknown or has expired
        ├── ModelNotFound     404: the service has no model of this name
        ├── PictureRefused    the image is damaged, too large, or has an unsupported format
        ├── PromptRefused     the prompts are invalid
        └── Busy              429, 502, 503, 504: the service was busy until the last attempt

Malformed arguments raise ValueError. Files that cannot be read raise OSError.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

BUSY_STATUSES = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """A call of the client failed."""

    retry_after_s: float | None = None


class Unreachable(ClientError):
    """No answer came, or none in time."""


class UnexpectedAnswer(ClientError):
    """The answer is not from this service: the address is wrong, or a proxy answered."""


class Problem(ClientError):
    """The service refused a request and described the problem.

    Args:
        status: HTTP status.
        code: Stable code of the problem, such as "overloaded".
        detail: Description of the problem, and what to do.
        request_id: Id of the request in the service's log.
        retry_after_s: Seconds to wait before a repetition, if the service names them.
        extra: Other members of the problem document.
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
    """The service needs an API key, and the key is missing, wrong, or lacks a permission."""

    codes = frozenset({"unauthorized", "forbidden"})


class EmbeddingNotFound(Problem):
    """The image is not embedded, or was evicted and could not be embedded again."""

    codes = frozenset({"embedding-not-found"})


class MaskNotFound(Problem):
    """The mask to refine is unknown for this image, or has expired."""

    codes = frozenset({"mask-not-found"})


class ModelNotFound(Problem):
    """The service has no model of this name. The message lists the models that it has."""

    codes = frozenset({"model-not-found"})


class PictureRefused(Problem):
    """The service does not accept the image. Choose another one, or save the image again."""

    codes = frozenset(
        {"unsupported-image", "undecodable-image", "image-too-large", "body-too-large", "unusable-aspect-ratio"}
    )


class PromptRefused(Problem):
    """The prompts are invalid. `extra["errors"]` may say which."""

    codes = frozenset({"prompt-outside-image", "invalid-request"})


class Busy(Problem):
    """The service cannot handle the request now."""

    codes = frozenset({"overloaded", "rate-limited", "cache-unavailable", "not-ready", "deadline-exceeded"})


_CLASSES = {
    code: kind
    for kind in (Unauthorized, EmbeddingNotFound, MaskNotFound, ModelNotFound, PictureRefused, PromptRefused, Busy)
    for code in kind.codes
}
# Code and detail of answers without a problem document: answers to HEAD, and answers of proxies.
_WITHOUT_DOCUMENT = {
    401: ("unauthorized", "The service needs an API key and does not know this one."),
    403: ("forbidden", "The API key lacks the permission for this."),
    404: ("embedding-not-found", "The image is not embedded."),
    429: ("too-many-requests", "The service, or a proxy before it, limits the number of requests."),
    502: ("bad-gateway", "The proxy before the service got no answer from it."),
    503: ("unavailable", "The service, or the proxy before it, is not available."),
    504: ("gateway-timeout", "The proxy before the service got no answer in time."),
}


def problem_of(
    status: int, content: bytes, *, is_document: bool, request_id: str, retry_after_s: float | None
) -> ClientError:
    """The error of an answer.

    Args:
        status: HTTP status, 400 or above.
        content: Body of the answer.
        is_document: Whether the content type is that of a problem document.
        request_id: Request id from the headers.
        retry_after_s: Seconds of the header Retry-After, if there is one.

    Returns:
        A `Problem`, or `UnexpectedAnswer` if there is no problem document and the status alone is not enough.
    """
    document = _json_object(content) if is_document else {}
    code, detail = document.pop("code", None), document.pop("detail", None)
    if not (isinstance(code, str) and isinstance(detail, str)):
        if status not in _WITHOUT_DOCUMENT or (status == 404 and content):
            return UnexpectedAnswer(f"HTTP {status} without a problem document. Check the address of the service.")
        code, detail = _WITHOUT_DOCUMENT[status]
    kind = _CLASSES.get(code, Busy if status in BUSY_STATUSES else Problem)
    return kind(status, code, detail, request_id=request_id, retry_after_s=retry_after_s, extra=document)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
