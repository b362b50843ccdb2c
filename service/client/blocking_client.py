"""The blocking client. It runs the operations over httpx, as the asyncio client does."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx
from numpy.typing import ArrayLike

from . import everything_operation, operations
from .arguments import RETRY_S, TIMEOUT_S, model_for, prompts_of
from .connection import Connection
from .crops import Crops
from .everything import Everything, EverythingOptions, OnEvent
from .images import ImageInput
from .messages import Answer, Progress, Request
from .operations import Operation, Send, Step, Together, Wait
from .retries import RetryPolicy
from .run_lengths import RunLengthMask
from .soft_masks import SoftMask
from .values import Box, Cleanup, Embedded, Levels, Model, Multimask, Prompt, Reading, Segmentation
from .waiting import OnWait

T = TypeVar("T")


class Client:
    """Blocking client. Threads may share it. Close it, or use it in `with`.

    Args:
        url: Address of the service with its path prefix: "http://127.0.0.1:8000", "https://example.org/edgesam".
        api_key: API key, if the service needs one.
        timeout_s: Time limit of one attempt, in seconds; in everything mode, of each wait for the next event.
        retry_s: Time after a request's first attempt in which another one may begin, in seconds. A request is repeated
            if there is no connection, or if the status is 429, 502, 503 or 504. Waits follow Retry-After. 0 disables
            repetition.
        model: Name of the model for all calls that name none; None for the first model of the service. `models` lists
            them. The member `model` may be changed later.
        on_wait: Callback before a request is repeated, from one second after its first attempt: it gets a `Waiting`
            with the reason, the time until the next attempt and the time until the last one. It may be called in
            another thread.

    Raises:
        ValueError: if the address or the API key is malformed.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        model: str | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        self.model = model
        self._connection = Connection(url, api_key, timeout_s)
        self._retry_policy = RetryPolicy(retry_s, on_wait=on_wait)
        self._http = httpx.Client(**self._connection.options)

    def embed(
        self,
        source: ImageInput,
        *,
        progress: Progress | None = None,
        levels: Levels = "auto",
        bands: tuple[int, int, int] | None = None,
        region: Box | None = None,
        model: str | None = None,
    ) -> Embedded:
        """Embed an image. Its file is uploaded only if the service does not have its embedding.

        Args:
            source: Path of a file, bytes of a file, or uint8 array of shape (H, W), (H, W, 3) RGB or (H, W, 4) RGBA.
            progress: Callback during the upload, called with (bytes sent, bytes in total).
            levels: Conversion of samples of more than 8 bits to grey levels; see `Reading`.
            bands: Numbers of the bands for red, green and blue, from 1; None for the first three.
            region: Part of the upright image to embed; see `region`. None for all of it.
            model: Name of the model; None for the client's.

        Raises:
            ClientError: if the service gives no embedding; see the module `errors`.
            OSError: if the file cannot be read.
            ValueError: if the array is not an image, or there are no such levels, bands or region.
        """
        reading = Reading(levels, bands, region)
        return self._run(operations.embed(source, reading, model or self.model, progress, self._retry_policy))

    def region(self, image: Embedded, box: Box, *, model: str | None = None) -> Embedded:
        """Embed a region of an image by itself, at its full resolution, for small objects in large images.

        Prompts and masks on the result keep the pixels of the whole image. The file is uploaded again only if the
        service keeps no copy of it.

        Args:
            image: Result of `embed`.
            box: The region x0, y0, x1, y1 in whole pixels of the upright image, at least 32 pixels a side.
            model: Name of the model; None for the one that embedded the image, or else the client's.

        Raises:
            ClientError: if the service gives no embedding, or the file has changed.
            OSError: if the file cannot be read.
            ValueError: if the region is malformed.
        """
        return self._run(operations.region(image, box, model_for(image, model, self.model), self._retry_policy))

    def segment(
        self,
        picture: Embedded | str,
        prompts: Sequence[Prompt] | None = None,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_id: str | None = None,
        mask: ArrayLike | RunLengthMask | None = None,
        multimask: Multimask = "auto",
        cleanup: Cleanup = "none",
        model: str | None = None,
    ) -> Segmentation:
        """Segment one object, or several with `prompts`.

        Args:
            picture: Result of `embed`, or an image_hash or image_id. An image that the service has evicted is embedded
                again, but not if only its id is given.
            prompts: One prompt per object, instead of the five arguments below.
            points: Points as (N, 2) array of (x, y), in pixels of the upright image.
            labels: Labels of the points, (N,): 1 on the object, 0 beside it. By default all are 1.
            box: Box x0, y0, x1, y1, in pixels of the upright image.
            mask_id: Id of an earlier mask that the prompt refines.
            mask: Instead of `mask_id`, a binary mask of the image's size, (H, W), or a `Mask` of an answer.
            multimask: Masks per prompt. "auto" gives 3 or 4 for a single point, which is ambiguous, else 1.
            cleanup: "auto" gives masks that agree with all points, keep to the box and have no small islands and holes.
                "none" gives the model's masks.
            model: Name of the model; None for the one that embedded `picture`, or else the client's. If another model
                is named, it embeds the image first, but not if only an id is given.

        Raises:
            ClientError: if the service gives no masks; see the module `errors`.
            ValueError: if a prompt is malformed.
        """
        name = model_for(picture, model, self.model)
        request_prompts = prompts_of(prompts, points=points, labels=labels, box=box, mask_id=mask_id, mask=mask)
        return self._run(operations.segment(picture, request_prompts, multimask, cleanup, name, self._retry_policy))

    def soft_mask(
        self,
        image: Embedded | str,
        prompt: Prompt | None = None,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_id: str | None = None,
        mask: ArrayLike | RunLengthMask | None = None,
        cleanup: Cleanup = "none",
        model: str | None = None,
    ) -> SoftMask:
        """Return the best mask of a prompt with a soft edge, for instance for a cut-out.

        Args:
            image: Result of `embed`, or an image_hash or image_id, as in `segment`.
            prompt: Prompt, instead of the five arguments below, which are those of `segment`.
            points: Points as (N, 2) array of (x, y), in pixels of the upright image.
            labels: Labels of the points, (N,): 1 on the object, 0 beside it. By default all are 1.
            box: Box x0, y0, x1, y1, in pixels of the upright image.
            mask_id: Id of an earlier mask that the prompt refines.
            mask: Instead of `mask_id`, a binary mask of the image's size, (H, W), or a `Mask` of an answer.
            cleanup: "auto" or "none", as in `segment`.
            model: Name of the model, as in `segment`.

        Raises:
            ClientError: if the service gives no mask; see the module `errors`.
            ValueError: if the prompt is malformed.
        """
        name = model_for(image, model, self.model)
        prompts = None if prompt is None else [prompt]
        (only,) = prompts_of(prompts, points=points, labels=labels, box=box, mask_id=mask_id, mask=mask)
        return self._run(operations.soft_mask(image, only, cleanup, name, self._retry_policy))

    def segment_everything(
        self,
        image: Embedded | str,
        *,
        crops: int | Crops = 0,
        model: str | None = None,
        on_event: OnEvent | None = None,
        **options: Unpack[EverythingOptions],
    ) -> Everything:
        """Find the masks of all objects of an image. The service handles one such request of a caller at a time.

        Args:
            image: Result of `embed` or `region`, or an image_hash or image_id; with crops, the result of `embed`.
            crops: Layers of crops that are searched too, for small objects: 1 adds 4 crops and 2 adds 20. `Crops` has
                more settings.
            model: Name of the model; None for the one that embedded the image, or else the client's.
            on_event: Callback for progress, and for each mask as it is found. It may be called in another thread.
            **options: Options with SAM's names; see `EverythingOptions`.

        Raises:
            ClientError: if the service gives no masks; see the module `errors`.
            OSError: if the image's file is needed and cannot be read.
            TypeError: if there is no option of a name.
            ValueError: if an option is malformed, or the image is too small for the crops.
        """
        name = model_for(image, model, self.model)
        return self._run(
            everything_operation.segment_everything(image, options, crops, name, on_event, self._retry_policy)
        )

    def contains(self, image_hash: str, *, model: str | None = None) -> bool:
        """Whether the service has the image's embedding of a model.

        Args:
            image_hash: Hash of the image, or an image_id.
            model: Name of the model; None for the client's.
        """
        return self._run(operations.contains(image_hash, model or self.model, self._retry_policy))

    def forget(self, image_hash: str) -> bool:
        """Delete the image's embeddings of all models. Return whether there was one.

        Args:
            image_hash: Hash of the image, which deletes it with all levels and bands, or an image_id, which deletes
                only the embeddings that it names.
        """
        return self._run(operations.forget(image_hash, self._retry_policy))

    def models(self) -> tuple[Model, ...]:
        """The models of the service. The first one answers where no model is named."""
        return self._run(operations.models(self._retry_policy))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, operation: Operation[T]) -> T:
        with closing(operation):
            try:
                step = next(operation)
                while True:
                    try:
                        result = self._do(step)
                    except Exception as error:  # noqa: BLE001 - the operation handles it
                        step = operation.throw(error)
                    else:
                        step = operation.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def _do(self, step: Step) -> object:
        if isinstance(step, Send):
            return self._send(step.request)
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        if isinstance(step, Together):
            with ThreadPoolExecutor(len(step.operations)) as threads:
                return list(threads.map(self._run, step.operations))
        return step.function()

    def _send(self, request: Request) -> Answer:
        attempt = self._connection.attempt(request)
        with attempt.failures(), self._http.stream(**attempt.sending(request, attempt.upload)) as response:
            for chunk in response.iter_bytes():
                attempt.receive(chunk, response)
            return attempt.answer(response)
