"""What all adapters do between a tool's JSON and the use cases: parse it, embed its image, segment."""

import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from service.api.bodies import read_body
from service.api.problems import broken_rule, invalid_request
from service.api.request_context import request_context
from service.api.routes.requests import SMALL_BODY_BYTES, RequestLimits
from service.errors import BodyTooLarge, MalformedBody
from service.inference.embed import Embedder, EmbedResult
from service.inference.refinement_masks import RefinablePrompt
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segment import Segmenter
from service.inference.segmentation_builder import Renderer
from service.sam.masks import Multimask
from service.sam.prompts import Prompt

Written = TypeVar("Written")
Read = TypeVar("Read")

# Decoding holds the interpreter, so it is done in pieces of about a tenth of a millisecond; each is whole groups of
# four characters.
_PIECE_BYTES: Final = 256 * 1024


# Label Studio repeats the brush regions of a task with every click, a number for each byte of them.
_BYTES_PER_MEMBER: Final = 8


class Document(BaseModel):
    """A tool's JSON. What the translation has no use for is passed over: tools add members with every release."""

    model_config = ConfigDict(extra="ignore", frozen=True)


@dataclass(frozen=True, slots=True)
class Exchange:
    """The service as adapters see it: the same use cases, the same bounds, no way around either.

    Args:
        embedder: Use cases of embedding.
        segmenter: Use case of segmenting.
        executor: Threads that parse bodies.
        limits: of bodies, from the settings.
        model: name of the served model, which tools show.
        files: folder whose pictures a tool may name by an address; None: pictures come with the request.
    """

    embedder: Embedder
    segmenter: Segmenter
    executor: TimedExecutor
    limits: RequestLimits
    model: str
    files: Path | None = None

    async def read(self, request: Request, parse: Callable[[bytes], Read]) -> Read:
        """The request's body as `parse` reads it, off the event loop where it is more than a click.

        A body holds one picture in base64 and, beside it, as much as a body of /segment may.

        Raises:
            BodyTooLarge, BodyTimeout, MalformedBody, InvalidRequest: see `read_body` and `parse`.
        """
        limits = self.limits
        body = await read_body(
            request,
            max_bytes=limits.max_image_bytes * 4 // 3 + limits.max_request_bytes,
            timeout_s=limits.body_timeout_s,
            min_bytes_per_s=limits.min_bytes_per_s,
        )
        if len(body) <= SMALL_BODY_BYTES:
            return self._parsed(body, parse)
        return await self.executor.run(request.state.timings, self._parsed, body, parse)

    async def embed(self, request: Request, text: bytes, unwrap: Callable[[bytes], bytes] | None = None) -> EmbedResult:
        """Leave the picture that `text` stands for in the caches; a known one costs its hash and a look-up.

        Args:
            request: its log line tells the tier that had the picture.
            text: base64, or what `unwrap` makes a picture of in a worker thread.

        Raises:
            MalformedBody, BodyTooLarge: the text; and all that `Embedder.embed` raises.
        """
        context = request_context(request, timeout_s=self.limits.embed_timeout_s, work="Embedding the picture")
        result = await self.embedder.embed(text, unwrap or self.picture, context)
        request.state.cached = result.cached
        return result

    async def segment(
        self,
        request: Request,
        image_hash: str,
        prompts: Sequence[Prompt],
        multimask: Multimask,
        renderer: Renderer[Written],
    ) -> Written:
        """See `Segmenter.segment`."""
        request.state.prompts = len(prompts)
        context = request_context(request, timeout_s=self.limits.segment_timeout_s, work="Segmenting")
        refinable = [RefinablePrompt(prompt) for prompt in prompts]
        return await self.segmenter.segment(image_hash, refinable, multimask, renderer, context)

    def picture(self, text: bytes) -> bytes:
        """The bytes behind base64, plain or as a data: URI (RFC 2397). Blocking.

        Raises:
            MalformedBody: it is neither.
            BodyTooLarge: more bytes than an upload to /embed may have.
        """
        if text[:5].lower() == b"data:":
            head, comma, text = text.partition(b",")
            if not comma or not head.lower().endswith(b";base64"):
                raise MalformedBody("The picture's data: URI is not base64; write data:image/jpeg;base64,….")
        if any(space in text for space in (b"\n", b"\r", b" ", b"\t")):
            text = text.translate(None, b" \t\r\n")
        if not text:
            raise MalformedBody("The picture is empty. Send the file's bytes in base64.")
        if len(text) // 4 * 3 > self.limits.max_image_bytes + 2:
            raise BodyTooLarge(
                f"The picture has more than {self.limits.max_image_bytes} bytes. Send a smaller file.",
                extra={"limit": self.limits.max_image_bytes},
            )
        view = memoryview(text)
        try:
            pieces = [
                binascii.a2b_base64(view[start : start + _PIECE_BYTES], strict_mode=True)
                for start in range(0, len(view), _PIECE_BYTES)
            ]
        except binascii.Error as error:
            raise MalformedBody(f"The picture is not base64 ({error}). Send the file's bytes in base64.") from error
        return b"".join(pieces)

    def _parsed(self, body: bytes, parse: Callable[[bytes], Read]) -> Read:
        # Every member costs time and memory before anything is checked; base64 has no comma.
        if body.count(b",") > self.limits.max_request_bytes // _BYTES_PER_MEMBER:
            raise broken_rule("/", "more members than a request needs; send the picture, the prompts and little else.")
        try:
            return parse(body)
        except ValidationError as error:
            raise invalid_request(error) from error


def prompt_of(
    points: Sequence[tuple[float, float]], labels: Sequence[int], box: Sequence[float] | None = None
) -> Prompt:
    """A prompt of clicks, (x, y) with 1 or 0 each, and a box as x0, y0, x1, y1 in any order of corners; pixels."""
    corners = None
    if box is not None:
        x0, y0, x1, y1 = box
        corners = np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], np.float64)
    return Prompt(points=np.array(points, np.float64).reshape(-1, 2), labels=np.array(labels, np.int64), box=corners)
