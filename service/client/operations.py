"""The client's operations, written once for the blocking and the asyncio client.

An operation is a generator. It yields steps (`Send`, `Wait`, `Work`), receives their results, and returns the result of
the call. The client that runs it either blocks a thread during a step or awaits the step; see `clients`.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from .errors import BUSY_STATUSES, EmbeddingNotFound, Unreachable
from .images import ImageContent, ImageInput, ImageSource
from .messages import (
    Answer,
    Progress,
    Request,
    delete_request,
    embed_request,
    head_request,
    models_request,
    read_embedded,
    read_known,
    read_models,
    read_segmentation,
    segment_request,
)
from .retries import RetryPolicy
from .values import Cleanup, Embedded, Model, Multimask, Prompt, Reading, Segmentation

T = TypeVar("T")

# If the cache evicts an image twice before the request after it, a third upload would not help.
_EMBEDS_PER_SEGMENT = 2


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request. The result is an `Answer`; `Unreachable` is raised at the yield."""

    request: Request


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Call a function that blocks: it reads a file, hashes or encodes. Its exception is raised at the yield."""

    function: Callable[[], object]


Step = Send | Wait | Work
Operation = Generator[Step, Any, T]


def embed(
    source: ImageInput, reading: Reading, model: str | None, progress: Progress | None, retry_policy: RetryPolicy
) -> Operation[Embedded]:
    """Hash an image, ask the service for the hash, and upload the file if the service does not have its embedding."""
    image = yield from _work(lambda: ImageSource.of(source))
    content = yield from _read(image)
    answer = yield from _repeated(head_request(reading.image_id(content.image_hash), model), retry_policy)
    if (known := read_known(answer, content, image, reading, model)) is not None:
        return known
    if not answer.is_success and answer.status != 404:
        raise answer.problem()
    return (yield from _upload(content, image, reading, model, progress, retry_policy))


def segment(
    image: Embedded | str,
    prompts: Sequence[Prompt],
    multimask: Multimask,
    cleanup: Cleanup,
    model: str | None,
    retry_policy: RetryPolicy,
) -> Operation[Segmentation]:
    """Segment an image. If the model lacks its embedding and `image` is an `Embedded`, embed it again."""
    image_id = image if isinstance(image, str) else image.image_id
    request = segment_request(image_id, prompts, multimask, cleanup, model)
    embeds_left = _EMBEDS_PER_SEGMENT if isinstance(image, Embedded) else 0
    while True:
        answer = yield from _repeated(request, retry_policy)
        if answer.is_success:
            return read_segmentation(answer, len(prompts))
        problem = answer.problem()
        if not isinstance(problem, EmbeddingNotFound) or embeds_left == 0:
            raise problem
        assert isinstance(image, Embedded)
        embeds_left -= 1
        source = image.picture
        content = yield from _read(source)
        if content.image_hash != image.image_hash:
            problem.add_note(f"{source.path} has changed since and was not embedded again.")
            raise problem
        yield from _upload(content, source, image.reading, model, None, retry_policy)


def contains(image_id: str, model: str | None, retry_policy: RetryPolicy) -> Operation[bool]:
    """Ask whether the service has an image's embedding of a model."""
    answer = yield from _repeated(head_request(image_id, model), retry_policy)
    if answer.is_success or answer.status == 404:
        return answer.is_success
    raise answer.problem()


def forget(image_id: str, retry_policy: RetryPolicy) -> Operation[bool]:
    """Delete an image's embeddings of all models. Return whether there was one."""
    answer = yield from _repeated(delete_request(image_id), retry_policy)
    if answer.is_success:
        return True
    problem = answer.problem()
    if isinstance(problem, EmbeddingNotFound):
        return False
    raise problem


def models(retry_policy: RetryPolicy) -> Operation[tuple[Model, ...]]:
    """Get the models of the service."""
    answer = yield from _repeated(models_request(), retry_policy)
    if not answer.is_success:
        raise answer.problem()
    return read_models(answer)


def _upload(
    content: ImageContent,
    image: ImageSource,
    reading: Reading,
    model: str | None,
    progress: Progress | None,
    retry_policy: RetryPolicy,
) -> Operation[Embedded]:
    answer = yield from _repeated(embed_request(content, reading, model, progress), retry_policy)
    if not answer.is_success:
        raise answer.problem()
    return read_embedded(answer, content, image, reading, model)


def _read(image: ImageSource) -> Operation[ImageContent]:
    return (yield from _work(lambda: ImageContent.of(image.read())))


def _work(function: Callable[[], T]) -> Operation[T]:
    return cast("T", (yield Work(function)))


def _repeated(request: Request, retry_policy: RetryPolicy) -> Operation[Answer]:
    """Send a request until the service is not busy, or until the retry policy allows no further attempt.

    Returns:
        The last answer, which may be a busy one.

    Raises:
        Unreachable: if the last attempt got no answer.
    """
    started = time.monotonic()
    attempt = 0
    while True:
        failure: Answer | Unreachable
        try:
            answer: Answer = yield Send(request)
        except Unreachable as error:
            failure, retry_after_s = error, None
        else:
            if answer.status not in BUSY_STATUSES:
                return answer
            failure, retry_after_s = answer, answer.problem().retry_after_s
        wait_s = retry_policy.wait_s(attempt, retry_after_s)
        if time.monotonic() - started + wait_s > retry_policy.retry_s:
            if isinstance(failure, Unreachable):
                raise failure
            return failure
        attempt += 1
        yield Wait(wait_s)
