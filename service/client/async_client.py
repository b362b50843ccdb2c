"""The asyncio client. It runs the operations over httpx, as the blocking client does."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

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


class AsyncClient:
    """Client for asyncio, with the methods of `Client`. It never blocks the event loop: threads read and hash files."""

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
        self._http = httpx.AsyncClient(**self._connection.options)

    async def embed(
        self,
        source: ImageInput,
        *,
        progress: Progress | None = None,
        levels: Levels = "auto",
        bands: tuple[int, int, int] | None = None,
        region: Box | None = None,
        model: str | None = None,
    ) -> Embedded:
        """See `Client.embed`."""
        reading = Reading(levels, bands, region)
        return await self._run(operations.embed(source, reading, model or self.model, progress, self._retry_policy))

    async def region(self, image: Embedded, box: Box, *, model: str | None = None) -> Embedded:
        """See `Client.region`."""
        return await self._run(operations.region(image, box, model_for(image, model, self.model), self._retry_policy))

    async def segment(
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
        """See `Client.segment`."""
        name = model_for(picture, model, self.model)
        request_prompts = prompts_of(prompts, points=points, labels=labels, box=box, mask_id=mask_id, mask=mask)
        return await self._run(
            operations.segment(picture, request_prompts, multimask, cleanup, name, self._retry_policy)
        )

    async def soft_mask(
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
        """See `Client.soft_mask`."""
        name = model_for(image, model, self.model)
        prompts = None if prompt is None else [prompt]
        (only,) = prompts_of(prompts, points=points, labels=labels, box=box, mask_id=mask_id, mask=mask)
        return await self._run(operations.soft_mask(image, only, cleanup, name, self._retry_policy))

    async def segment_everything(
        self,
        image: Embedded | str,
        *,
        crops: int | Crops = 0,
        model: str | None = None,
        on_event: OnEvent | None = None,
        **options: Unpack[EverythingOptions],
    ) -> Everything:
        """See `Client.segment_everything`. The callback is called in the event loop."""
        name = model_for(image, model, self.model)
        return await self._run(
            everything_operation.segment_everything(image, options, crops, name, on_event, self._retry_policy)
        )

    async def contains(self, image_hash: str, *, model: str | None = None) -> bool:
        """See `Client.contains`."""
        return await self._run(operations.contains(image_hash, model or self.model, self._retry_policy))

    async def forget(self, image_hash: str) -> bool:
        """See `Client.forget`."""
        return await self._run(operations.forget(image_hash, self._retry_policy))

    async def models(self) -> tuple[Model, ...]:
        """See `Client.models`."""
        return await self._run(operations.models(self._retry_policy))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, operation: Operation[T]) -> T:
        with closing(operation):
            try:
                step = next(operation)
                while True:
                    try:
                        result = await self._do(step)
                    except Exception as error:  # noqa: BLE001 - the operation handles it
                        step = operation.throw(error)
                    else:
                        step = operation.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    async def _do(self, step: Step) -> object:
        if isinstance(step, Send):
            return await self._send(step.request)
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, Together):
            return await self._together(step.operations)
        return await asyncio.to_thread(step.function)

    async def _together(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._run(operation)) for operation in operations]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _send(self, request: Request) -> Answer:
        attempt = self._connection.attempt(request)
        with attempt.failures():
            async with (
                asyncio.timeout(self._connection.timeout_s) as limit,
                self._http.stream(**attempt.sending(request, attempt.upload_async)) as response,
            ):
                async for chunk in response.aiter_bytes():
                    attempt.receive(chunk, response)
                    limit.reschedule(asyncio.get_running_loop().time() + attempt.seconds_left)
                return attempt.answer(response)
