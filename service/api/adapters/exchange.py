"""The steps that all adapters share: parsing a tool's JSON, embedding its image, and segmenting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from service.api.adapters.label_studio_download import StudioDownloads
from service.api.adapters.proposals import Proposals
from service.api.bodies import SMALL_BODY_BYTES, RequestLimits, read_body, without_bom
from service.api.json_images import check_beginning, decode_base64
from service.api.problems import broken_rule, invalid_request
from service.api.request_context import request_context
from service.errors import ModelNotFound
from service.inference.embed import EmbedResult, Upload
from service.inference.refinement_masks import RefinablePrompt
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segmentation_builder import Renderer
from service.inference.served_models import ServedModel, ServedModels
from service.sam.masks import Multimask
from service.sam.prompts import Prompt

Written = TypeVar("Written")
Read = TypeVar("Read")

# Bound on the members of a body: one for each so many bytes that a request may have beside its image.
_BYTES_PER_MEMBER: Final = 8
# Most members of a body, whatever its size. Parsing holds Python's global lock: a million objects that break the schema
# kept the event loop waiting for nine seconds, and took gigabytes.
_MAX_MEMBERS: Final = 65_536


class Document(BaseModel):
    """A tool's JSON. Members that the adapter does not use are ignored: tools add members with every release."""

    model_config = ConfigDict(extra="ignore", frozen=True)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Access of the adapters to the service: the same use cases and the same bounds as for every request.

    Args:
        models: Served models.
        executor: Threads that parse bodies and write answers.
        limits: Bounds of request bodies and prompts.
        files: Folders of the images that a tool may name by an address. None: images come with the request.
        downloads: Access to the images of a Label Studio server. None: no image is fetched.
        proposals: Access to everything mode. None: adapters propose no objects.
    """

    models: ServedModels
    executor: TimedExecutor
    limits: RequestLimits
    files: Sequence[Path] = ()
    downloads: StudioDownloads | None = None
    proposals: Proposals | None = None

    async def read(
        self,
        request: Request,
        parse: Callable[[bytes], Read],
        shorten: Callable[[bytes], bytes] | None = None,
    ) -> Read:
        """Return the parsed body of a request. A body that is larger than that of a click is parsed in a thread.

        A body may hold one image in base64 and, beside it, as much as a body of /segment.

        Args:
            request: Request with an unread body.
            parse: Function that parses the body. Blocking.
            shorten: Function that removes from the body what the adapter does not use, before the bound on members is
                checked. Blocking. None: everything counts.

        Raises:
            BodyTooLarge, BodyTimeout, MalformedBody, InvalidRequest: Errors of `read_body`, `shorten` and `parse`.
        """
        limits = self.limits
        body = await read_body(
            request,
            max_bytes=limits.max_image_bytes * 4 // 3 + limits.max_request_bytes,
            timeout_s=limits.body_timeout_s,
            min_bytes_per_s=limits.min_bytes_per_s,
        )
        request.state.body_read_at = perf_counter()
        if len(body) <= SMALL_BODY_BYTES:
            return self._parsed(body, parse, shorten)
        return await self.executor.run(request.state.timings, self._parsed, body, parse, shorten)

    def model(self, name: str | None, where: str) -> ServedModel:
        """Return the model that a tool asks for. A caller that embeds and segments passes the same one to both.

        Args:
            name: Name of the model; None for the default model.
            where: JSON pointer to the name, for the error.

        Raises:
            InvalidRequest: No model has this name.
        """
        try:
            return self.models.get(name)
        except ModelNotFound as error:
            raise broken_rule(where, f"{error.detail} Reload the tool's list of models and choose again.") from error

    async def embed(
        self, request: Request, text: bytes, model: ServedModel, unwrap: Callable[[bytes], bytes] | None = None
    ) -> EmbedResult:
        """Embed the image that `text` stands for. An image that is embedded already costs its hash and a look-up.

        Args:
            request: Request whose log line gets the tier that had the embedding.
            text: Image in base64, or the text that `unwrap` takes.
            model: Model that embeds.
            unwrap: Function that makes the bytes of the image from `text`, in a worker thread. None: base64.

        Raises:
            MalformedBody, BodyTooLarge: The text is not an image in base64, or is too large.
            ServiceError: Errors of `Embedder.embed`.
        """
        context = request_context(request, timeout_s=self.limits.embed_timeout_s, work="Embedding the image")
        result = await self.models.embed(text, lambda text: Upload((unwrap or self.image)(text)), context, model=model)
        request.state.cached, request.state.model = result.cached, result.model
        request.state.objective = "images"
        return result

    async def segment(
        self,
        request: Request,
        image_id: str,
        prompts: Sequence[Prompt],
        multimask: Multimask,
        renderer: Renderer[Written],
        model: ServedModel,
    ) -> Written:
        """Return the answer that `renderer` writes, with cleaned masks; see `Segmenter.segment`."""
        request.state.prompts, request.state.model = len(prompts), model.name
        state = request.scope["state"]
        has_computed_embedding = "cached" in state and state["cached"] is None
        if not has_computed_embedding:  # else the objective of images goes on
            state["objective"] = "clicks"
        context = request_context(request, timeout_s=self.limits.segment_timeout_s, work="Segmenting")
        refinable = [RefinablePrompt(prompt) for prompt in prompts]
        return await model.segmenter.segment(image_id, refinable, multimask, renderer, context, cleanup="auto")

    def image(self, text: bytes) -> bytes:
        """Return the bytes behind base64, plain or as a data: URI (RFC 2397). Blocking.

        Args:
            text: Base64, with or without spaces and line ends.

        Raises:
            MalformedBody: The text is not base64, or is empty.
            BodyTooLarge: The image has more bytes than an upload to /embed may have.
            UnsupportedImage: The bytes are plainly no image, see `check_beginning`.
        """
        data = decode_base64(text, max_bytes=self.limits.max_image_bytes)
        check_beginning(data)
        return data

    def _parsed(self, body: bytes, parse: Callable[[bytes], Read], shorten: Callable[[bytes], bytes] | None) -> Read:
        if shorten is not None:
            body = shorten(body)
        # Every member costs time and memory before the schema is checked. Base64 has no comma.
        if body.count(b",") > min(_MAX_MEMBERS, self.limits.max_request_bytes // _BYTES_PER_MEMBER):
            raise broken_rule("/", "more members than a request needs. Send the image, the prompts and little else.")
        try:
            return parse(without_bom(body))
        except ValidationError as error:
            raise invalid_request(error) from error


def prompt_of(
    points: Sequence[tuple[float, float]], labels: Sequence[int], box: Sequence[float] | None = None
) -> Prompt:
    """Return a prompt of points and a box, in pixels.

    Args:
        points: Points as (x, y).
        labels: 1 for each point that belongs to the object, 0 for each that does not.
        box: Box as x0, y0, x1, y1, with its corners in any order.
    """
    corners = None
    if box is not None:
        x0, y0, x1, y1 = box
        corners = np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], np.float64)
    return Prompt(points=np.array(points, np.float64).reshape(-1, 2), labels=np.array(labels, np.int64), box=corners)
