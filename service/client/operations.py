"""The client's operations, written once for the blocking and the asyncio client.

An operation is a generator. It yields steps (`Send`, `Wait`, `Work`, `Together`), receives their results, and returns
the result of the call. The client that runs it either blocks a thread during a step or awaits the step; see `clients`.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from .errors import BUSY_STATUSES, Busy, ClientError, EmbeddingNotFound, Unreachable
from .images import ImageContent, ImageInput, ImageSource
from .messages import (
    Answer,
    Progress,
    Request,
    copy_request,
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
from .soft_masks import SoftMask, read_soft_mask, soft_mask_request
from .values import Cleanup, Embedded, Model, Multimask, Prompt, Reading, Segmentation
from .waiting import SAID_AFTER_S, Waiting

T = TypeVar("T")

# If the cache evicts an image twice before the request after it, a third upload would not help.
_EMBEDS_PER_SEGMENT = 2
_UNAVAILABLE = frozenset({503})
_MUST_UPLOAD = frozenset({404, 503})


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


@dataclass(frozen=True, slots=True)
class Together:
    """Run operations at the same time. The result is the list of their results; the first error is raised."""

    operations: "Sequence[Operation[Any]]"


Step = Send | Wait | Work | Together
Operation = Generator[Step, Any, T]


def embed(
    source: ImageInput, reading: Reading, model: str | None, progress: Progress | None, retry_policy: RetryPolicy
) -> Operation[Embedded]:
    """Hash an image, ask the service for the hash, and upload the file if the service does not have its embedding."""
    image = yield from work(lambda: ImageSource.of(source))
    content = yield from _read(image)
    known = yield from _known(image, content.image_hash, reading, model, retry_policy)
    return known or (yield from _upload(content, image, reading, model, progress, retry_policy))


def region(image: Embedded, box: Any, model: str | None, retry_policy: RetryPolicy) -> Operation[Embedded]:
    """Embed a region of an image. The file is read only if the service has neither the embedding nor a copy."""
    reading = replace(image.reading, region=box)
    source = image.picture
    known = yield from _known(source, image.image_hash, reading, model, retry_policy)
    if known is not None:
        return known
    content = yield from _read(source)
    if content.image_hash != image.image_hash:
        raise ClientError(f"{source.path} has changed since it was embedded.")
    return (yield from _upload(content, source, reading, model, None, retry_policy))


def segment(
    image: Embedded | str,
    prompts: Sequence[Prompt],
    multimask: Multimask,
    cleanup: Cleanup,
    model: str | None,
    retry_policy: RetryPolicy,
) -> Operation[Segmentation]:
    """Segment an image. If the model lacks its embedding and `image` is an `Embedded`, embed it again."""
    request = segment_request(id_of(image), prompts, multimask, cleanup, model)
    answer = yield from send_about(image, request, model, retry_policy)
    return read_segmentation(answer, len(prompts))


def soft_mask(
    image: Embedded | str, prompt: Prompt, cleanup: Cleanup, model: str | None, retry_policy: RetryPolicy
) -> Operation[SoftMask]:
    """Get the best mask of a prompt with a soft edge, as `segment` gets hard ones."""
    request = soft_mask_request(id_of(image), prompt, cleanup, model)
    return read_soft_mask((yield from send_about(image, request, model, retry_policy)))


def id_of(image: Embedded | str) -> str:
    """The image_id of an image."""
    return image if isinstance(image, str) else image.image_id


def send_about(
    image: Embedded | str, request: Request, model: str | None, retry_policy: RetryPolicy
) -> Operation[Answer]:
    """Send a request about an image. If the model lacks its embedding, embed it again and repeat the request.

    Returns:
        An answer that is a success.

    Raises:
        ClientError: if there is none.
    """
    embeds_left = _EMBEDS_PER_SEGMENT if isinstance(image, Embedded) else 0
    while True:
        answer = yield from _repeated(request, retry_policy)
        if answer.is_success:
            return answer
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


def _known(
    image: ImageSource, image_hash: str, reading: Reading, model: str | None, retry_policy: RetryPolicy
) -> Operation[Embedded | None]:
    """The image if the service has its embedding, or a copy of it for a region. None if it must be uploaded.

    Without Redis the service answers 503, as it cannot tell. An upload succeeds then, so the look-up is not repeated.
    """
    look_up = head_request(reading.image_id(image_hash), model)
    answer = yield from _repeated(look_up, retry_policy, ends_at=_UNAVAILABLE)
    if (known := read_known(answer, image_hash, image, reading, model)) is not None:
        return known
    if not answer.is_success and answer.status not in _MUST_UPLOAD:
        raise answer.problem()
    if reading.region is None:
        return None
    answer = yield from _repeated(copy_request(image_hash, reading, model), retry_policy, ends_at=_UNAVAILABLE)
    if answer.is_success:
        return replace(read_embedded(answer, image_hash, image, reading, model), was_uploaded=False)
    if answer.status not in _MUST_UPLOAD:
        raise answer.problem()
    return None


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
    return read_embedded(answer, content.image_hash, image, reading, model)


def _read(image: ImageSource) -> Operation[ImageContent]:
    return (yield from work(lambda: ImageContent.of(image.read())))


def work(function: Callable[[], T]) -> Operation[T]:
    """Call a function that blocks, and return its result."""
    return cast("T", (yield Work(function)))


def _repeated(
    request: Request, retry_policy: RetryPolicy, *, ends_at: frozenset[int] = frozenset()
) -> Operation[Answer]:
    """Send a request until the service is not busy, or until the retry policy allows no further attempt.

    Args:
        request: The request.
        retry_policy: Limit of the time in which it is repeated.
        ends_at: Statuses of a busy service after which it is not repeated.

    Returns:
        The last answer, which may be a busy one.

    Raises:
        Unreachable: if the last attempt got no answer.
        Busy: if the last attempt failed in the middle of its lines.
    """
    started = time.monotonic()
    attempt = 0
    while True:
        answer: Answer | None = None
        reason: ClientError
        try:
            answer = yield Send(request)
        except (Unreachable, Busy) as error:
            reason = error
        else:
            assert answer is not None
            if answer.status not in BUSY_STATUSES - ends_at:
                return answer
            reason = answer.problem()
        wait_s = retry_policy.wait_s(attempt, reason.retry_after_s)
        if time.monotonic() - started + wait_s > retry_policy.retry_s:
            if answer is None:
                raise reason
            return answer
        attempt += 1
        yield from _wait(wait_s, reason, started, retry_policy)


def _wait(wait_s: float, reason: ClientError, started: float, retry_policy: RetryPolicy) -> Operation[None]:
    """Wait, and pass the wait on once the request takes longer than a second."""
    quiet_s = max(0.0, started + SAID_AFTER_S - time.monotonic())
    if retry_policy.on_wait is not None and wait_s > quiet_s:
        yield Wait(quiet_s)
        wait_s -= quiet_s
        retry_policy.on_wait(Waiting(reason, wait_s, started + retry_policy.retry_s - time.monotonic()))
    yield Wait(wait_s)
