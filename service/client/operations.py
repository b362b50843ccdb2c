"""What client and service say to each other, once for both clients.

A conversation is a generator: it yields steps (`Send`, `Wait`, `Work`), is sent their results, and returns what the
caller gets. Who drives it decides whether waiting blocks a thread or lets an event loop go on; see `clients`.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from service.client.errors import BUSY_STATUSES, EmbeddingNotFound, Unreachable
from service.client.messages import (
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
from service.client.pictures import Content, Picture, PictureSource
from service.client.retries import Patience
from service.client.values import Embedded, Model, Multimask, Prompt, Segmentation

T = TypeVar("T")

# A cache that cannot keep a picture from its embedding to the click after it is not helped by a third attempt.
_EMBEDS_PER_SEGMENT = 2


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; the result is the `Answer`, or `Unreachable` is raised at the yield."""

    request: Request


@dataclass(frozen=True, slots=True)
class Wait:
    """Let some time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Call a function that blocks: reads a file, hashes, encodes. Its result or its exception comes back."""

    function: Callable[[], object]


Step = Send | Wait | Work
Conversation = Generator[Step, Any, T]


def embed(source: PictureSource, progress: Progress | None, patience: Patience) -> Conversation[Embedded]:
    """Hash here, ask, and upload only what the service does not know."""
    picture = yield from _work(lambda: Picture.of(source))
    content = yield from _read(picture)
    if content.size is not None:
        answer = yield from _repeated(head_request(content.image_hash), patience)
        if (known := read_known(answer, content, picture)) is not None:
            return known
        if answer.status != 404:
            raise answer.problem()
    return (yield from _upload(content, picture, progress, patience))


def segment(
    picture: Embedded | str, prompts: Sequence[Prompt], multimask: Multimask, patience: Patience
) -> Conversation[Segmentation]:
    """Segment, and embed again what the service has lost meanwhile, when the caller gave an `Embedded`."""
    image_hash = picture if isinstance(picture, str) else picture.image_hash
    request = segment_request(image_hash, prompts, multimask)
    embeds_left = _EMBEDS_PER_SEGMENT if isinstance(picture, Embedded) else 0
    while True:
        answer = yield from _repeated(request, patience)
        if answer.is_success:
            return read_segmentation(answer, len(prompts))
        problem = answer.problem()
        if not isinstance(problem, EmbeddingNotFound) or embeds_left == 0:
            raise problem
        assert isinstance(picture, Embedded)
        embeds_left -= 1
        content = yield from _read(picture.picture)
        if content.image_hash != image_hash:
            problem.add_note(f"{picture.picture.path} has changed since and was not embedded again.")
            raise problem
        yield from _upload(content, picture.picture, None, patience)


def contains(image_hash: str, patience: Patience) -> Conversation[bool]:
    """Ask without sending anything."""
    answer = yield from _repeated(head_request(image_hash), patience)
    if answer.is_success or answer.status == 404:
        return answer.is_success
    raise answer.problem()


def forget(image_hash: str, patience: Patience) -> Conversation[bool]:
    """Delete; whether there was anything."""
    answer = yield from _repeated(delete_request(image_hash), patience)
    if answer.is_success:
        return True
    problem = answer.problem()
    if isinstance(problem, EmbeddingNotFound):
        return False
    raise problem


def models(patience: Patience) -> Conversation[tuple[Model, ...]]:
    """Ask what is served."""
    answer = yield from _repeated(models_request(), patience)
    if not answer.is_success:
        raise answer.problem()
    return read_models(answer)


def _upload(
    content: Content, picture: Picture, progress: Progress | None, patience: Patience
) -> Conversation[Embedded]:
    answer = yield from _repeated(embed_request(content, progress), patience)
    if not answer.is_success:
        raise answer.problem()
    return read_embedded(answer, content, picture)


def _read(picture: Picture) -> Conversation[Content]:
    return (yield from _work(lambda: Content.of(picture.read())))


def _work(function: Callable[[], T]) -> Conversation[T]:
    return cast("T", (yield Work(function)))


def _repeated(request: Request, patience: Patience) -> Conversation[Answer]:
    """Send until there is an answer other than "not now", or patience ends; then the last answer or error stands."""
    started = time.monotonic()
    attempt = 0
    while True:
        failure: Answer | Unreachable
        try:
            answer: Answer = yield Send(request)
        except Unreachable as error:
            failure, asked_s = error, None
        else:
            if answer.status not in BUSY_STATUSES:
                return answer
            failure, asked_s = answer, answer.problem().retry_after_s
        wait_s = patience.wait_s(attempt, asked_s)
        if time.monotonic() - started + wait_s > patience.retry_s:
            if isinstance(failure, Unreachable):
                raise failure
            return failure
        attempt += 1
        yield Wait(wait_s)
