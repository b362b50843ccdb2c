"""Defaults and the meaning of arguments that the blocking and the asyncio client share."""

from collections.abc import Sequence
from typing import Final

from numpy.typing import ArrayLike

from .run_lengths import RunLengthMask
from .values import Embedded, Prompt

# Longer than the service's own limits, 30 s for a body and 60 s for an embedding, so that its error arrives.
TIMEOUT_S: Final = 100.0
RETRY_S: Final = 20.0


def model_for(image: Embedded | str, named: str | None, of_client: str | None) -> str | None:
    """The model of a call: the one that it names, the one that embedded the image, or the client's."""
    return named or (image.model if isinstance(image, Embedded) else None) or of_client


def prompts_of(
    prompts: Sequence[Prompt] | None,
    *,
    points: ArrayLike | None,
    labels: ArrayLike | None,
    box: ArrayLike | None,
    mask_id: str | None,
    mask: ArrayLike | RunLengthMask | None,
) -> Sequence[Prompt]:
    """The given prompts, or one prompt made of the other arguments.

    Raises:
        ValueError: if there are both or neither, or a prompt is malformed.
    """
    has_parts = any(part is not None for part in (points, labels, box, mask_id, mask))
    if prompts is None:
        return [Prompt(points, labels, box, mask_id, mask)]
    if has_parts or len(prompts) == 0:
        raise ValueError("Give prompts, at least one, or points, labels, box, mask_id and mask; not both.")
    return prompts
