"""The errors that a client gets an answer for, one class for each problem code.

    ServiceError
    ├── the request
    │   ├── InvalidRequest        422  invalid-request          a field is missing, of the wrong type or out of bounds
    │   ├── MalformedBody         400  malformed-body           not JSON, not multipart, cut off
    │   ├── PromptOutsideImage    422  prompt-outside-image     a point or a box outside the image
    │   ├── Unauthorized          401  unauthorized             no API key, or a wrong one
    │   ├── Forbidden             403  forbidden                a key without the role for this
    │   ├── RateLimited           429  rate-limited             a key with too many requests, or too many at once
    │   ├── Misdirected           421  misdirected              another role of replicas answers this
    │   ├── BodyTooLarge          413  body-too-large           more bytes than the server takes
    │   ├── BodyTimeout           408  body-timeout             the body was too slow
    │   ├── MalformedHead         400  malformed-head           not HTTP
    │   ├── HeadTooLarge          431  head-too-large           more bytes of headers than the server takes
    │   ├── HeadTimeout           408  head-timeout             the headers were too slow
    │   ├── NotAcceptable         406  not-acceptable           no such representation of this answer
    │   └── RangeNotSatisfiable   416  range-not-satisfiable    bytes that the answer does not have
    ├── the image
    │   ├── UnsupportedImage      415  unsupported-image        not one of the formats
    │   ├── UndecodableImage      422  undecodable-image        broken or cut off
    │   ├── ImageTooLarge         413  image-too-large          more pixels than the server takes
    │   └── UnusableAspectRatio   422  unusable-aspect-ratio    a side would vanish in the encoder's frame
    ├── something absent
    │   ├── EmbeddingNotFound     404  embedding-not-found      POST the image to /embed (again)
    │   └── MaskNotFound          404  mask-not-found           the mask_id is unknown or has expired
    └── the server
        ├── Overloaded            503  overloaded               the process is full; nothing was started
        ├── CacheUnavailable      503  cache-unavailable        Redis does not answer
        ├── DeadlineExceeded      504  deadline-exceeded        the work took longer than the server allows
        └── NotReady              503  not-ready                starting or stopping

Programming errors raise ValueError or AssertionError. Nothing here depends on the web framework.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """A failure that the client can act on. The class holds status, code and title of the answer.

    Args:
        detail: One or two sentences about this case: what is wrong and what to do.
        retry_after_s: Seconds after which the client may repeat the request; sent as Retry-After.
        extra: Further members of the problem document; JSON values.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self, detail: str, *, retry_after_s: float | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.extra = dict(extra or {})


class InvalidRequest(ServiceError):
    """The request was understood and breaks a rule; `extra["errors"]` lists where."""

    status, code, title = 422, "invalid-request", "The request is not valid"


class MalformedBody(ServiceError):
    """The body is not what its content type says."""

    status, code, title = 400, "malformed-body", "The body cannot be read"


class PromptOutsideImage(ServiceError):
    """A point or a box lies outside the image."""

    status, code, title = 422, "prompt-outside-image", "A prompt lies outside the picture"


class Unauthorized(ServiceError):
    """The service requires an API key and the request has no valid one."""

    status, code, title = 401, "unauthorized", "An API key is needed"


class Forbidden(ServiceError):
    """The API key has no role that allows this; `extra["roles"]` lists the roles that do."""

    status, code, title = 403, "forbidden", "This key may not do that"


class RateLimited(ServiceError):
    """The API key has sent too many requests, or has too many in progress; nothing was started."""

    status, code, title = 429, "rate-limited", "The key has reached its limit"


class Misdirected(ServiceError):
    """Replicas with another role answer this request (EDGESAM_ROLE)."""

    status, code, title = 421, "misdirected", "Another replica answers this"


class BodyTooLarge(ServiceError):
    """The body has more bytes than the route takes; it was not read to its end."""

    status, code, title = 413, "body-too-large", "The body is too large"


class BodyTimeout(ServiceError):
    """The body did not arrive in time."""

    status, code, title = 408, "body-timeout", "The body came too slowly"


class MalformedHead(ServiceError):
    """The request's line or headers are not HTTP."""

    status, code, title = 400, "malformed-head", "The request cannot be read"


class HeadTooLarge(ServiceError):
    """Request line and headers have more bytes than the server takes."""

    status, code, title = 431, "head-too-large", "The headers are too large"


class HeadTimeout(ServiceError):
    """Request line and headers did not arrive in time."""

    status, code, title = 408, "head-timeout", "The headers came too slowly"


class NotAcceptable(ServiceError):
    """The Accept header asks for a representation that this answer does not have."""

    status, code, title = 406, "not-acceptable", "There is no such representation"


class RangeNotSatisfiable(ServiceError):
    """The Range header asks for bytes after the end."""

    status, code, title = 416, "range-not-satisfiable", "The range lies behind the end"


class UnsupportedImage(ServiceError):
    """The bytes are not an image in one of the supported formats."""

    status, code, title = 415, "unsupported-image", "The picture's format is not supported"


class UndecodableImage(ServiceError):
    """The image is broken or cut off."""

    status, code, title = 422, "undecodable-image", "The picture cannot be decoded"


class ImageTooLarge(ServiceError):
    """The image has more pixels than the service decodes."""

    status, code, title = 413, "image-too-large", "The picture has too many pixels"


class UnusableAspectRatio(ServiceError):
    """The image is so narrow that its shorter side would be 0 in the encoder's frame."""

    status, code, title = 422, "unusable-aspect-ratio", "The picture is too narrow"


class EmbeddingNotFound(ServiceError):
    """No embedding of this image is cached for the served model."""

    status, code, title = 404, "embedding-not-found", "The picture is not embedded"


class MaskNotFound(ServiceError):
    """The mask_id is unknown for this image, or has expired."""

    status, code, title = 404, "mask-not-found", "The mask is not there"


class Overloaded(ServiceError):
    """The process is at one of its limits; nothing was started."""

    status, code, title = 503, "overloaded", "The service is at capacity"


class CacheUnavailable(ServiceError):
    """Redis does not answer, so it is not known whether it holds the value."""

    status, code, title = 503, "cache-unavailable", "The embedding cache cannot be reached"


class DeadlineExceeded(ServiceError):
    """The work was started and did not end before its deadline."""

    status, code, title = 504, "deadline-exceeded", "The work took too long"


class NotReady(ServiceError):
    """The process is starting or stopping."""

    status, code, title = 503, "not-ready", "The service is not ready"
