"""The errors that a client can receive, one class for each thing that it can act on.

    ServiceError
    ├── the request
    │   ├── InvalidRequest        422  invalid-request          a field is missing, of the wrong type or out of bounds
    │   ├── MalformedBody         400  malformed-body           not JSON, not multipart, cut off
    │   ├── PromptOutsideImage    422  prompt-outside-image     a point or a box outside the image
    │   ├── Unauthorized          401  unauthorized             no API key, or an unknown one
    │   ├── Forbidden             403  forbidden                the API key lacks the role for this
    │   ├── RateLimited           429  rate-limited             too many requests of the API key
    │   ├── Misdirected           421  misdirected              replicas with another role answer this
    │   ├── BodyTooLarge          413  body-too-large           more bytes than the server takes
    │   ├── UnsupportedEncoding   415  unsupported-encoding     the body is compressed
    │   ├── BodyTimeout           408  body-timeout             the body came too slowly
    │   ├── MalformedHead         400  malformed-head           not HTTP
    │   ├── HeadTooLarge          431  head-too-large           more bytes of headers than the server takes
    │   ├── HeadTimeout           408  head-timeout             the headers came too slowly
    │   ├── NotAcceptable         406  not-acceptable           no such representation of the answer
    │   ├── RangeNotSatisfiable   416  range-not-satisfiable    the range begins behind the end
    │   ├── ReloadInProgress      409  reload-in-progress       another reload of the models has not ended
    │   └── ModelLoadFailed       422  model-load-failed        a model cannot be served; nothing was changed
    ├── the image
    │   ├── UnsupportedImage      415  unsupported-image        not a supported format
    │   ├── UndecodableImage      422  undecodable-image        broken or cut off
    │   ├── ImageTooLarge         413  image-too-large          more pixels than the server takes
    │   └── UnusableAspectRatio   422  unusable-aspect-ratio    too narrow or too long for the model's frame
    ├── not found
    │   ├── EmbeddingNotFound     404  embedding-not-found      POST the image to /embed (again)
    │   ├── ImageNotKept          404  image-not-kept           no copy of the image is kept: send its bytes
    │   ├── ModelNotFound         404  model-not-found          no served model has this name
    │   └── MaskNotFound          404  mask-not-found           the mask_id is unknown or has expired
    └── the server
        ├── ImageSourceUnavailable 502 image-source-unavailable  Label Studio does not give an image
        ├── Overloaded            503  overloaded               at capacity; nothing was started
        ├── CacheUnavailable      503  cache-unavailable        Redis is unavailable
        ├── DeadlineExceeded      504  deadline-exceeded        the work took longer than allowed
        └── NotReady              503  not-ready                starting or stopping

Programming errors raise ValueError or AssertionError, never one of these. This module does not use the web framework.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """An error that the client can act on. The class has status, code and title of the answer.

    Args:
        detail: One or two sentences for this case: the problem and the action that solves it.
        retry_after_s: Time after which a retry makes sense, in seconds; sent as Retry-After.
        extra: Further members of the problem document, JSON values only.
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
    """The request breaks a rule of its schema. `errors` lists the places."""

    status, code, title = 422, "invalid-request", "The request is not valid"


class MalformedBody(ServiceError):
    """The body does not match its content type, or is cut off."""

    status, code, title = 400, "malformed-body", "The body cannot be read"


class PromptOutsideImage(ServiceError):
    """A point or a box lies outside the image."""

    status, code, title = 422, "prompt-outside-image", "A prompt lies outside the image"


class Unauthorized(ServiceError):
    """The service requires an API key, and the request has no known one."""

    status, code, title = 401, "unauthorized", "An API key is needed"


class Forbidden(ServiceError):
    """The API key has no role that allows this. `roles` lists the roles that do."""

    status, code, title = 403, "forbidden", "This key may not do that"


class RateLimited(ServiceError):
    """The API key has reached its rate limit, or its limit of requests in progress. No work was started."""

    status, code, title = 429, "rate-limited", "The key has reached its limit"


class Misdirected(ServiceError):
    """Replicas with another EDGESAM_ROLE answer this route."""

    status, code, title = 421, "misdirected", "Another replica answers this"


class BodyTooLarge(ServiceError):
    """The body has more bytes than the route takes. The rest was not read."""

    status, code, title = 413, "body-too-large", "The body is too large"


class UnsupportedEncoding(ServiceError):
    """The body has a Content-Encoding. Bodies are read as they are, never unpacked."""

    status, code, title = 415, "unsupported-encoding", "The body is compressed"


class BodyTimeout(ServiceError):
    """The body did not arrive in time."""

    status, code, title = 408, "body-timeout", "The body came too slowly"


class MalformedHead(ServiceError):
    """The request line or a header is not valid HTTP."""

    status, code, title = 400, "malformed-head", "The request cannot be read"


class HeadTooLarge(ServiceError):
    """Request line and headers have more bytes than the server takes."""

    status, code, title = 431, "head-too-large", "The headers are too large"


class HeadTimeout(ServiceError):
    """Request line and headers did not arrive in time."""

    status, code, title = 408, "head-timeout", "The headers came too slowly"


class NotAcceptable(ServiceError):
    """The Accept header allows no representation of the answer."""

    status, code, title = 406, "not-acceptable", "There is no such representation"


class RangeNotSatisfiable(ServiceError):
    """The range of the Range header begins behind the end."""

    status, code, title = 416, "range-not-satisfiable", "The range lies behind the end"


class ReloadInProgress(ServiceError):
    """Another reload of the models has not ended."""

    status, code, title = 409, "reload-in-progress", "The models are being reloaded"


class ModelLoadFailed(ServiceError):
    """A model of a reload cannot be served. The models that were served before go on."""

    status, code, title = 422, "model-load-failed", "The model cannot be loaded"


class UnsupportedImage(ServiceError):
    """The bytes are not an image in a supported format."""

    status, code, title = 415, "unsupported-image", "The image format is not supported"


class UndecodableImage(ServiceError):
    """The image is damaged or cut off."""

    status, code, title = 422, "undecodable-image", "The image cannot be decoded"


class ImageTooLarge(ServiceError):
    """The image has more pixels than the service decodes."""

    status, code, title = 413, "image-too-large", "The image has too many pixels"


class UnusableAspectRatio(ServiceError):
    """The image is so narrow that its shorter side would have no pixel at the encoder's resolution, or too long."""

    status, code, title = 422, "unusable-aspect-ratio", "The image is too narrow"


class EmbeddingNotFound(ServiceError):
    """No embedding of the image is cached for the model of the request."""

    status, code, title = 404, "embedding-not-found", "The image is not embedded"

    @classmethod
    def of_model(cls, name: str) -> "EmbeddingNotFound":
        """Return the error of an image that is not embedded by a model.

        Args:
            name: Name of the model, which the problem has as its member `model`.
        """
        return cls(
            f"No embedding of this image is cached for the model {name}. POST the image to /embed?model={name}, then "
            "repeat this request.",
            extra={"model": name},
        )


class ImageNotKept(ServiceError):
    """No copy of the image's bytes is kept, so it has to be uploaded again."""

    status, code, title = 404, "image-not-kept", "The image is not kept"


class ModelNotFound(ServiceError):
    """No served model has the name of the request. `models` lists the names of the served models."""

    status, code, title = 404, "model-not-found", "There is no such model"


class MaskNotFound(ServiceError):
    """The mask_id is unknown for the image, or has expired."""

    status, code, title = 404, "mask-not-found", "The mask is not there"


class ImageSourceUnavailable(ServiceError):
    """Label Studio, from which the service fetches an image, cannot be reached, is too slow, or fails."""

    status, code, title = 502, "image-source-unavailable", "The image cannot be fetched"


class Overloaded(ServiceError):
    """The process is at capacity. No work was started."""

    status, code, title = 503, "overloaded", "The service is at capacity"


class CacheUnavailable(ServiceError):
    """Redis is unavailable, so the service cannot determine whether the embedding or mask exists."""

    status, code, title = 503, "cache-unavailable", "The embedding cache cannot be reached"


class DeadlineExceeded(ServiceError):
    """The work did not end in the time that the server allows."""

    status, code, title = 504, "deadline-exceeded", "The work took too long"


class NotReady(ServiceError):
    """The process is starting or stopping."""

    status, code, title = 503, "not-ready", "The service is not ready"
