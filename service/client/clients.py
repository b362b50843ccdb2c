"""The two clients. They drive the same conversations over httpx and differ in how they wait."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from numpy.typing import ArrayLike

from service.client import conversations
from service.client.connection import Connection
from service.client.conversations import Conversation, Send, Step, Wait
from service.client.messages import Answer, Progress, Request
from service.client.pictures import PictureSource
from service.client.retries import Patience
from service.client.values import Embedded, Model, Multimask, Prompt, Segmentation

T = TypeVar("T")

# The service itself gives a body 30 s and an embedding 60 s; who waits less hears nothing of its reasons.
TIMEOUT_S: Final = 100.0
RETRY_S: Final = 20.0


class Client:
    """Embeds and segments pictures, one call at a time for each thread that uses it. Close it, or use it in `with`.

    Args:
        url: of the service, with the path it lies under: "http://127.0.0.1:8000", "https://example.org/edgesam".
        api_key: one of the service's, where it asks for one.
        timeout_s: bound of one attempt, seconds.
        retry_s: no attempt begins later than this after a request's first one, seconds. Repeated is what found no
            connection, and what was answered 429, 502, 503 or 504; Retry-After is kept to. 0 repeats nothing.

    Raises:
        ValueError: an address or a key that cannot be one.
    """

    def __init__(
        self, url: str, api_key: str | None = None, *, timeout_s: float = TIMEOUT_S, retry_s: float = RETRY_S
    ) -> None:
        self._connection = Connection(url, api_key, timeout_s)
        self._patience = Patience(retry_s)
        self._http = httpx.Client(**self._connection.options)

    def embed(self, source: PictureSource, *, progress: Progress | None = None) -> Embedded:
        """Make a picture ready for `segment`. Its hash is sent first, and its bytes only when they are not known.

        Args:
            source: path of a file, a file's bytes, or an array: uint8, (H, W), (H, W, 3) RGB or (H, W, 4) RGBA.
            progress: told (bytes sent, bytes in all) during the upload.

        Raises:
            ClientError: see `service.client.errors`.
            OSError, ValueError: the file cannot be read; the array is no picture.
        """
        return self._run(conversations.embed(source, progress, self._patience))

    def segment(
        self,
        picture: Embedded | str,
        prompts: Sequence[Prompt] | None = None,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_id: str | None = None,
        multimask: Multimask = "auto",
    ) -> Segmentation:
        """Cut out one object, or several with `prompts`.

        Args:
            picture: what `embed` gave, which is embedded again when the service has lost it; or an image_hash.
            prompts: one for each object, instead of the four below; see `Prompt`.
            points: (N, 2) as (x, y), pixels of the upright picture.
            labels: (N,): 1 belongs to the object, 0 does not; without them all belong to it.
            box: x0, y0, x1, y1.
            mask_id: of a mask to refine.
            multimask: masks a prompt; "auto": 4 for a single point, which is ambiguous, else 1.

        Raises:
            ClientError: see `service.client.errors`.
            ValueError: prompts that no service could take.
        """
        asked = _prompts(prompts, points=points, labels=labels, box=box, mask_id=mask_id)
        return self._run(conversations.segment(picture, asked, multimask, self._patience))

    def contains(self, image_hash: str) -> bool:
        """Whether the picture is embedded."""
        return self._run(conversations.contains(image_hash, self._patience))

    def forget(self, image_hash: str) -> bool:
        """Delete the picture's embedding; whether there was one."""
        return self._run(conversations.forget(image_hash, self._patience))

    def models(self) -> tuple[Model, ...]:
        """What is served."""
        return self._run(conversations.models(self._patience))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, conversation: Conversation[T]) -> T:
        with closing(conversation):
            try:
                step = next(conversation)
                while True:
                    try:
                        result = self._do(step)
                    except Exception as error:  # noqa: BLE001 - the conversation decides
                        step = conversation.throw(error)
                    else:
                        step = conversation.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def _do(self, step: Step) -> object:
        if isinstance(step, Send):
            return self._send(step.request)
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        return step.function()

    def _send(self, request: Request) -> Answer:
        attempt = self._connection.attempt()
        with attempt.failures(), self._http.stream(**attempt.sending(request, attempt.upload)) as response:
            for piece in response.iter_bytes():
                attempt.receive(piece)
            return attempt.answer(response)


class AsyncClient:
    """`Client` for an event loop, which it never blocks: files are read and hashed in threads. Many calls at once."""

    def __init__(
        self, url: str, api_key: str | None = None, *, timeout_s: float = TIMEOUT_S, retry_s: float = RETRY_S
    ) -> None:
        self._connection = Connection(url, api_key, timeout_s)
        self._patience = Patience(retry_s)
        self._http = httpx.AsyncClient(**self._connection.options)

    async def embed(self, source: PictureSource, *, progress: Progress | None = None) -> Embedded:
        """`Client.embed`."""
        return await self._run(conversations.embed(source, progress, self._patience))

    async def segment(
        self,
        picture: Embedded | str,
        prompts: Sequence[Prompt] | None = None,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_id: str | None = None,
        multimask: Multimask = "auto",
    ) -> Segmentation:
        """`Client.segment`."""
        asked = _prompts(prompts, points=points, labels=labels, box=box, mask_id=mask_id)
        return await self._run(conversations.segment(picture, asked, multimask, self._patience))

    async def contains(self, image_hash: str) -> bool:
        """`Client.contains`."""
        return await self._run(conversations.contains(image_hash, self._patience))

    async def forget(self, image_hash: str) -> bool:
        """`Client.forget`."""
        return await self._run(conversations.forget(image_hash, self._patience))

    async def models(self) -> tuple[Model, ...]:
        """`Client.models`."""
        return await self._run(conversations.models(self._patience))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, conversation: Conversation[T]) -> T:
        with closing(conversation):
            try:
                step = next(conversation)
                while True:
                    try:
                        result = await self._do(step)
                    except Exception as error:  # noqa: BLE001 - the conversation decides
                        step = conversation.throw(error)
                    else:
                        step = conversation.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    async def _do(self, step: Step) -> object:
        if isinstance(step, Send):
            return await self._send(step.request)
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            return None
        return await asyncio.to_thread(step.function)

    async def _send(self, request: Request) -> Answer:
        attempt = self._connection.attempt()
        with attempt.failures():
            async with (
                asyncio.timeout(self._connection.timeout_s),
                self._http.stream(**attempt.sending(request, attempt.upload_async)) as response,
            ):
                async for piece in response.aiter_bytes():
                    attempt.receive(piece)
                return attempt.answer(response)


def _prompts(
    prompts: Sequence[Prompt] | None,
    *,
    points: ArrayLike | None,
    labels: ArrayLike | None,
    box: ArrayLike | None,
    mask_id: str | None,
) -> Sequence[Prompt]:
    """Several prompts, or the one that is given by its parts."""
    is_in_parts = any(part is not None for part in (points, labels, box, mask_id))
    if prompts is None:
        return [Prompt(points, labels, box, mask_id)]
    if is_in_parts or len(prompts) == 0:
        raise ValueError("Give prompts, at least one, or points, labels, box and mask_id; not both.")
    return prompts
