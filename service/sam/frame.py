"""How an image lies in the square frame of prompts and masks: letterboxed, or stretched to fill it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from service.sam.transforms import Size

Resize = Literal["letterbox", "stretch"]
"""How an image is resized to the square frame.

`letterbox`: both axes by one scale, the longer one fills the frame, and the rest is padding.
`stretch`: each axis by its own scale, and both fill the frame.
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """An image in the square frame of a model. `service.sam.transforms` converts between their pixels.

    Args:
        size: Height and width of the upright image at full resolution, pixels.
        resize: How the model's images are resized to the frame.
    """

    size: "Size"
    resize: Resize = "letterbox"
