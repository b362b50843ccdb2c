"""Bytes for those who decode in the browser, embeddings above all: all, a range, or 304 (RFC 9110, 13 and 14)."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from service.api.problems import refusal
from service.api.request_context import request_context
from service.api.schemas import ImageHash, ProblemModel
from service.errors import RangeNotSatisfiable
from service.inference.embed import Embedder
from service.inference.scheduling.executors import TimedExecutor
from service.sam.embedding import ImageEmbedding
from service.sam.float16 import as_float16
from service.telemetry.metrics import Metrics

EMBEDDING_ROUTE: Final = "/embed/{image_hash}"
OCTETS: Final = "application/octet-stream"

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

_HEADERS: Final = {
    "ETag": "Of the bytes; If-None-Match is answered with 304, and If-Range is heeded.",
    "X-Embedding-Shape": "4096,256: tokens row by row of a grid of 64 × 64, and channels.",
    "X-Embedding-Dtype": "float16, little-endian.",
    "X-Image-Size": "Width and height of the upright picture, pixels.",
    "X-Fingerprint": "Of the encoder, as in /models; the decoder has to be of the same model.",
}
_OCTETS_SCHEMA: Final = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
DOWNLOAD_ANSWERS: Final[Mapping[int | str, dict[str, Any]]] = {
    200: {"description": "All of the bytes.", "content": _OCTETS_SCHEMA},
    206: {"description": "The range of them that was asked for.", "content": _OCTETS_SCHEMA},
    304: {"description": "The client has these bytes."},
}
"""What `download` gives, for FastAPI's `responses`."""

_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": text,
        "content": _OCTETS_SCHEMA,
        "headers": {name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in _HEADERS.items()},
    }
    for status, text in (
        (200, "4096 × 256 tokens, little-endian float16, row by row: 2,097,152 bytes."),
        (206, "The range of them that was asked for."),
    )
}


def install_embedding_download(
    app: FastAPI,
    embedder: Embedder,
    *,
    executor: TimedExecutor,
    timeout_s: float,
    fingerprint: str,
    metrics: Metrics,
) -> None:
    """Add `GET /embed/{image_hash}`."""
    refuse = refusal(metrics)

    @app.get(
        EMBEDDING_ROUTE,
        response_class=Response,
        responses={
            **DOWNLOAD_ANSWERS,
            **_ANSWERS,
            **ProblemModel.responses(401, 403, 404, 416, 422, 429, 503, 504),
        },
        summary="What the encoder made of a picture",
        description="For decoding in the browser: the tokens that `prepare.onnx` takes. Single ranges are answered.",
    )
    async def read_embedding(request: Request, image_hash: ImageHash) -> Response:
        context = request_context(request, timeout_s=timeout_s, work="Reading the embedding")
        embedding = await embedder.read(image_hash, context)
        content, etag = await executor.run(context.timings, _tokens, embedding)
        height, width = embedding.original_size
        described = {
            "X-Embedding-Shape": ",".join(map(str, embedding.tokens.shape)),
            "X-Embedding-Dtype": "float16",
            "X-Image-Size": f"{width},{height}",
            "X-Fingerprint": fingerprint,
        }
        try:
            return download(content, request.headers, etag=etag, described=described)
        except RangeNotSatisfiable as error:
            response = await refuse(request, error)
            response.headers["Content-Range"] = f"bytes */{len(content)}"
            return response


def download(content: memoryview, headers: Headers, *, etag: str, described: Mapping[str, str]) -> Response:
    """All of the bytes, a range of them, or 304.

    Several ranges at once are answered with all, which the standard allows.

    Args:
        content: bytes, one dimension.
        headers: of the request.
        etag: strong, in quotes.
        described: further headers of the answer.

    Raises:
        RangeNotSatisfiable: the range begins behind the end.
    """
    # A copy is the client's own, and it asks before it uses it again, unless the caller knows better.
    described = {"Cache-Control": "private, no-cache", **described, "ETag": etag, "Accept-Ranges": "bytes"}
    if _names(headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=described)
    bounds = _bounds(headers.get("range", ""), len(content)) if headers.get("if-range", etag) == etag else None
    if bounds is None:
        return Response(content, headers=described, media_type=OCTETS)
    start, stop = bounds
    described["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return Response(content[start:stop], 206, headers=described, media_type=OCTETS)


def _tokens(embedding: ImageEmbedding) -> tuple[memoryview, str]:
    """The tokens as little-endian float16, row by row, and their strong ETag; blocking.

    The tag is of the bytes: two processors may round a picture differently, and parts of both would not fit together.
    """
    tokens = embedding.tokens if embedding.tokens.dtype == np.float16 else as_float16(embedding.tokens)
    content = np.ascontiguousarray(tokens, "<f2").data.cast("B")
    return content, f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'


def _names(condition: str, etag: str) -> bool:
    """Whether If-None-Match names the tag, weakly compared."""
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    return etag in tags or tags == ["*"]


def _bounds(wanted: str, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last; None where the header says nothing that can be followed."""
    found = _RANGE.fullmatch(wanted)
    first, last = found.groups() if found else ("", "")
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:  # that many from the end
        start, stop = size - min(int(last), size), size
    else:
        return None
    if start >= stop:
        raise RangeNotSatisfiable(
            f"There are {size} bytes, from 0 to {size - 1}; the Range header asks for none of them.",
            extra={"size": size},
        )
    return start, stop
