"""Requests to the service, and parsing of its answers. This module opens no connection."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

from .errors import ClientError, UnexpectedAnswer, problem_of
from .images import ImageContent, ImageSource
from .retries import retry_after_s
from .values import Cleanup, Embedded, Mask, Model, Multimask, Prompt, Reading, Segmentation, Timing

# Called with (bytes sent, bytes in total) during an upload. A repeated upload starts at 0 again.
Progress = Callable[[int, int], None]

# Called with each line of a success while it arrives.
OnLine = Callable[[bytes], None]

_BANDS = "[1-9][0-9]{0,3}(?:,[1-9][0-9]{0,3}){2}"
_REGION = "[0-9]{1,9}(?:,[0-9]{1,9}){3}"
_IMAGE_ID = re.compile(
    rf"[0-9a-f]{{64}}(?:~levels=(?:full|minmax|percentile))?(?:~bands={_BANDS})?(?:~region={_REGION})?"
)
_UPLOAD_CHUNK_BYTES = 64 * 1024
_NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Request:
    """A request. The connection adds the address, the API key and the user agent.

    Args:
        method: HTTP method.
        path: Path below the service's address, with its query.
        headers: Headers of this request.
        body: The whole body.
        progress: Callback during the upload.
        on_line: Callback for each line of a success, which is then not kept. The time limit holds between two lines.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    progress: Progress | None = None
    on_line: OnLine | None = None

    @property
    def is_upload(self) -> bool:
        """Whether the body is sent in chunks, for progress and for the time limit of the whole upload."""
        return self.progress is not None or len(self.body) > _UPLOAD_CHUNK_BYTES

    def chunks(self) -> Iterator[bytes]:
        """The body in chunks. Calls `progress` after each one."""
        total = len(self.body)
        body = memoryview(self.body)
        if self.progress is not None:
            self.progress(0, total)
        for start in range(0, total, _UPLOAD_CHUNK_BYTES):
            chunk = bytes(body[start : start + _UPLOAD_CHUNK_BYTES])
            yield chunk
            if self.progress is not None:
                self.progress(start + len(chunk), total)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response.

    Args:
        status: HTTP status.
        headers: Headers by name in lower case.
        content: The whole body.
        round_trip_s: Time since the start of the request, in seconds.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    round_trip_s: float

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def timing(self) -> Timing:
        """The round trip, and the stages in the header Server-Timing."""
        stages: dict[str, float] = {}
        for entry in self.headers.get("server-timing", "").split(","):
            name, *parameters = (part.strip() for part in entry.split(";"))
            for parameter in parameters:
                key, _, value = parameter.partition("=")
                if key == "dur" and (duration := _finite(value)) is not None:
                    stages[name] = duration
        return Timing(self.round_trip_s * 1000.0, stages)

    def problem(self) -> ClientError:
        """The error of an answer that is no success."""
        if 300 <= self.status < 400:
            target = self.headers.get("location", "another address")
            return UnexpectedAnswer(f"HTTP {self.status}: the service is at {target}; redirects are not followed.")
        return problem_of(
            self.status,
            self.content,
            is_document=self.headers.get("content-type", "").startswith("application/problem+json"),
            request_id=self.headers.get("x-request-id", ""),
            retry_after_s=retry_after_s(self.headers.get("retry-after")),
        )


def head_request(image_id: str, model: str | None) -> Request:
    """Request that asks whether a model has embedded an image."""
    return Request("HEAD", _with_query(_image_path(image_id), model), routing(image_id))


def delete_request(image_id: str) -> Request:
    """Request that deletes an image's embeddings of all models, and without levels and bands those of all of them."""
    return Request("DELETE", _image_path(image_id), routing(image_id))


def models_request() -> Request:
    """Request for the models of the service."""
    return Request("GET", "models", {})


def embed_request(content: ImageContent, reading: Reading, model: str | None, progress: Progress | None) -> Request:
    """Request that embeds an image. The service detects the format from the bytes."""
    headers = {"Content-Type": "application/octet-stream", **routing(content.image_hash)}
    return Request("POST", _with_query("embed", model, reading.parameters), headers, content.data, progress)


def copy_request(image_hash: str, reading: Reading, model: str | None) -> Request:
    """Request that embeds a region of the service's own copy of an image."""
    parameters = {"image_hash": reading.of_whole.image_id(image_hash), "region": reading.parameters["region"]}
    return Request("POST", _with_query("embed", model, parameters), routing(image_hash))


def segment_request(
    image_id: str, prompts: Sequence[Prompt], multimask: Multimask, cleanup: Cleanup, model: str | None
) -> Request:
    """Request for masks as run lengths, the smallest format that is exact."""
    document: dict[str, Any] = {
        "image_hash": checked_id(image_id),
        "prompts": [prompt.document for prompt in prompts],
        "multimask": multimask,
        "format": "rle",
    }
    if cleanup != "none":  # services before this field refuse it
        document["cleanup"] = cleanup
    if model is not None:
        document["model"] = model
    headers = {"Content-Type": "application/json", "Accept": "application/json", **routing(image_id)}
    return Request("POST", "segment", headers, json.dumps(document, allow_nan=False).encode())


def read_known(
    answer: Answer, image_hash: str, image: ImageSource, reading: Reading, model: str | None
) -> Embedded | None:
    """Read the answer to HEAD. None if the image must be uploaded, also to an older service, which sends no size."""
    size = _size(answer.headers.get("x-image-size", ""))
    if not answer.is_success or size is None:
        return None
    width, height = size
    orientation = answer.headers.get("x-image-orientation", "1")
    return Embedded(
        image_hash=image_hash,
        width=width,
        height=height,
        was_uploaded=False,
        cached=answer.headers.get("x-cache"),
        timing=answer.timing,
        picture=image,
        reading=_applied(reading, width, height),
        orientation=int(orientation) if orientation.isdecimal() else 1,
        applied_levels=answer.headers.get("x-image-levels", "full"),
        model=model,
    )


def read_embedded(answer: Answer, image_hash: str, image: ImageSource, reading: Reading, model: str | None) -> Embedded:
    """Read the answer to POST /embed.

    Raises:
        UnexpectedAnswer: if a member is missing, or the answer is about another file or another model.
    """
    document = document_of(answer)
    with unexpected_answers(answer):
        if document["image_hash"] != image_hash:
            raise ValueError("it is about another image")
        width, height = int(document["width"]), int(document["height"])
        reading = _applied(reading, width, height)
        if document.get("image_id", image_hash) != reading.image_id(image_hash):
            raise ValueError("the image was read in another way; the service may be too old for levels and regions")
        if model not in {None, document["model"]}:
            raise ValueError(f"it is from the model {document['model']}; the service may be too old for several models")
        return Embedded(
            image_hash=image_hash,
            width=width,
            height=height,
            was_uploaded=True,
            cached=document["cached"],
            timing=answer.timing,
            picture=image,
            reading=reading,
            orientation=int(document.get("orientation", 1)),
            applied_levels=str(document.get("levels", "full")),
            model=model,
        )


def read_segmentation(answer: Answer, count: int) -> Segmentation:
    """Read the answer to POST /segment.

    Args:
        answer: The answer, which must be a success.
        count: Number of prompts in the request.

    Raises:
        UnexpectedAnswer: if a member is missing, or a prompt has no masks.
    """
    document = document_of(answer)
    with unexpected_answers(answer):
        width, height = int(document["width"]), int(document["height"])
        results = tuple(
            tuple(_mask(mask, (height, width)) for mask in result["masks"]) for result in document["results"]
        )
        if len(results) != count or not all(results):
            raise ValueError("a prompt has no masks")
        return Segmentation(
            image_hash=str(document["image_hash"]),
            width=width,
            height=height,
            model=str(document["model"]),
            results=results,
            timing=answer.timing,
            request_id=answer.headers.get("x-request-id", ""),
            image_id=str(document.get("image_id", document["image_hash"])),  # services before this member lack it
            orientation=int(document.get("orientation", 1)),
        )


def read_models(answer: Answer) -> tuple[Model, ...]:
    """Read the answer to GET /models.

    Raises:
        UnexpectedAnswer: if a member is missing.
    """
    document = document_of(answer)
    with unexpected_answers(answer):
        return tuple(
            Model(str(model["name"]), bool(model["trained"]), str(model["fingerprint"]), model)
            for model in document["models"]
        )


@contextmanager
def unexpected_answers(answer: Answer) -> Iterator[None]:
    """Convert errors while an answer is read to UnexpectedAnswer."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnexpectedAnswer(
            f"HTTP {answer.status}, but the body is not an answer of the service ({error}). Check the address."
        ) from error


def _mask(document: dict[str, Any], size: tuple[int, int]) -> Mask:
    if tuple(document["rle"]["size"]) != size:
        raise ValueError("a mask has another size than the image")
    x0, y0, x1, y1 = (int(value) for value in document["box"])
    return Mask(
        score=float(document["score"]),
        stability=float(document["stability"]),
        predicted_iou=float(document["predicted_iou"]),
        area=int(document["area"]),
        box=(x0, y0, x1, y1),
        mask_id=str(document["mask_id"]),
        size=size,
        counts=str(document["rle"]["counts"]),
    )


def document_of(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        UnexpectedAnswer: if the body is none.
    """
    with unexpected_answers(answer):
        document = json.loads(answer.content)
        if not isinstance(document, dict):
            raise TypeError("not a JSON object")
        return document


def routing(image_id: str) -> dict[str, str]:
    """Header with which an ingress sends all requests on an image to the same replica, however it is read."""
    return {"X-Image-Hash": image_id.partition("~")[0]}


def _applied(reading: Reading, width: int, height: int) -> Reading:
    """The reading without a region that is the whole image, which is the image itself."""
    return reading.of_whole if reading.region == (0, 0, width, height) else reading


def _size(text: str) -> tuple[int, int] | None:
    width, _, height = text.partition(",")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None


def _with_query(path: str, model: str | None, parameters: Mapping[str, str] = _NO_PARAMETERS) -> str:
    query = urlencode({**parameters, **({} if model is None else {"model": model})}, safe=",")
    return f"{path}?{query}" if query else path


def _image_path(image_id: str) -> str:
    return f"embed/{checked_id(image_id)}"


def checked_id(image_id: str) -> str:
    """The id in the service's writing.

    Raises:
        ValueError: if it is no id of an image.
    """
    image_hash, *options = image_id.split("~")
    image_id = "~".join((image_hash.lower(), *options))
    if not _IMAGE_ID.fullmatch(image_id):
        raise ValueError(
            f"{image_id[:80]!r} is not an image_hash, which has 64 characters, 0 to 9 and a to f, nor an image_id, "
            "which goes on with ~levels=…, ~bands=… and ~region=…."
        )
    return image_id


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
