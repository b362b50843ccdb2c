"""The service's requests and answers as values: what is sent, and how it is read. No connection is known here."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.client.errors import ClientError, UnexpectedAnswer, problem_of
from service.client.pictures import Content, Picture
from service.client.retries import retry_after_s
from service.client.values import Embedded, Mask, Model, Multimask, Prompt, Segmentation, Timing

# Told (bytes sent, bytes in all) while a picture is uploaded; anew from 0 when the upload is repeated.
Progress = Callable[[int, int], None]

_IMAGE_HASH = re.compile(r"[0-9a-f]{64}")
_UPLOAD_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent; the connection adds address, key and agent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    progress: Progress | None = None

    @property
    def is_upload(self) -> bool:
        """Whether the body is sent in pieces, so that its progress can be told and its whole time bounded."""
        return self.progress is not None or len(self.body) > _UPLOAD_PIECE_BYTES

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces, telling `progress` of each that has been taken."""
        total = len(self.body)
        body = memoryview(self.body)
        if self.progress is not None:
            self.progress(0, total)
        for start in range(0, total, _UPLOAD_PIECE_BYTES):
            piece = bytes(body[start : start + _UPLOAD_PIECE_BYTES])
            yield piece
            if self.progress is not None:
                self.progress(start + len(piece), total)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Args:
        status: of HTTP.
        headers: names in lower case.
        content: the whole body.
        round_trip_s: since the request was begun.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    round_trip_s: float

    @property
    def is_success(self) -> bool:
        """Whether it is what was asked for."""
        return 200 <= self.status < 300

    @property
    def timing(self) -> Timing:
        """The stages of Server-Timing."""
        stages: dict[str, float] = {}
        for entry in self.headers.get("server-timing", "").split(","):
            name, *parameters = (part.strip() for part in entry.split(";"))
            for parameter in parameters:
                key, _, value = parameter.partition("=")
                if key == "dur" and (duration := _finite(value)) is not None:
                    stages[name] = duration
        return Timing(self.round_trip_s * 1000.0, stages)

    def problem(self) -> ClientError:
        """The error that an answer without success stands for."""
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


def head_request(image_hash: str) -> Request:
    """Is the picture embedded?"""
    return Request("HEAD", _picture_path(image_hash), _routing(image_hash))


def delete_request(image_hash: str) -> Request:
    """Forget the picture."""
    return Request("DELETE", _picture_path(image_hash), _routing(image_hash))


def models_request() -> Request:
    """What is served?"""
    return Request("GET", "models", {})


def embed_request(content: Content, progress: Progress | None) -> Request:
    """Embed this picture. The service looks at the bytes to see what they are."""
    headers = {"Content-Type": "application/octet-stream", **_routing(content.image_hash)}
    return Request("POST", "embed", headers, content.data, progress)


def segment_request(image_hash: str, prompts: Sequence[Prompt], multimask: Multimask) -> Request:
    """Cut out objects. Run lengths are the smallest form and hold the mask exactly."""
    document = {
        "image_hash": _checked_hash(image_hash),
        "prompts": [prompt.document for prompt in prompts],
        "multimask": multimask,
        "format": "rle",
    }
    headers = {"Content-Type": "application/json", "Accept": "application/json", **_routing(image_hash)}
    return Request("POST", "segment", headers, json.dumps(document, allow_nan=False).encode())


def read_known(answer: Answer, content: Content, picture: Picture) -> Embedded | None:
    """The answer to HEAD; None when the picture has to be sent, if only because its size is not known here."""
    if not answer.is_success or content.size is None:
        return None
    width, height = content.size
    return Embedded(
        image_hash=content.image_hash,
        width=width,
        height=height,
        was_uploaded=False,
        cached=answer.headers.get("x-cache"),
        timing=answer.timing,
        picture=picture,
    )


def read_embedded(answer: Answer, content: Content, picture: Picture) -> Embedded:
    """The answer to POST /embed.

    Raises:
        UnexpectedAnswer: it has not the members it should have, or is about other bytes than were sent.
    """
    document = _document(answer)
    with _Reading(answer):
        if document["image_hash"] != content.image_hash:
            raise ValueError("it is about another picture")
        return Embedded(
            image_hash=content.image_hash,
            width=int(document["width"]),
            height=int(document["height"]),
            was_uploaded=True,
            cached=document["cached"],
            timing=answer.timing,
            picture=picture,
        )


def read_segmentation(answer: Answer, count: int) -> Segmentation:
    """The answer to POST /segment with `count` prompts.

    Raises:
        UnexpectedAnswer: it has not the members it should have.
    """
    document = _document(answer)
    with _Reading(answer):
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
        )


def read_models(answer: Answer) -> tuple[Model, ...]:
    """The answer to GET /models.

    Raises:
        UnexpectedAnswer: it has not the members it should have.
    """
    document = _document(answer)
    with _Reading(answer):
        return tuple(
            Model(str(model["name"]), bool(model["trained"]), str(model["fingerprint"]), model)
            for model in document["models"]
        )


class _Reading:
    """Turns whatever goes wrong while an answer is read into UnexpectedAnswer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | OverflowError):
            raise UnexpectedAnswer(
                f"HTTP {self._answer.status} with a body that is not this service's ({error}): is this its address?"
            ) from error


def _mask(document: dict[str, Any], size: tuple[int, int]) -> Mask:
    if tuple(document["rle"]["size"]) != size:
        raise ValueError("a mask of another size than the picture")
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


def _document(answer: Answer) -> dict[str, Any]:
    with _Reading(answer):
        document = json.loads(answer.content)
        if not isinstance(document, dict):
            raise TypeError("no object")
        return document


def _routing(image_hash: str) -> dict[str, str]:
    """Lets an ingress send all requests on a picture to the replica that has it in memory."""
    return {"X-Image-Hash": image_hash}


def _picture_path(image_hash: str) -> str:
    return f"embed/{_checked_hash(image_hash)}"


def _checked_hash(image_hash: str) -> str:
    if not _IMAGE_HASH.fullmatch(image_hash):
        raise ValueError(f"{image_hash[:80]!r} is no image_hash: 64 characters, 0 to 9 and a to f.")
    return image_hash


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
