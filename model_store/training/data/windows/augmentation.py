"""Augmentation of training windows: shares and strengths of all random choices."""

from dataclasses import dataclass

_SHARES = (
    "whole", "whole_frame", "shrink", "mirrored", "rotated", "own_position", "grey", "degraded", "pasted", "synthetic",
    "noisy_boxes", "centre_points",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Shares of windows (0 to 1) that are varied, and strengths of the variation; the defaults are for training.

    Args:
        whole: Share of the windows smaller than the frame into which the whole photo is shrunk.
        whole_frame: Share of the windows as large as the frame that show the whole photo, as the service does.
        shrink: Largest reduction of a photo that is shown whole, as a share of its side.
        zoom: Smallest and largest size of a photo that is shown in part; 1 is its size in the served frame. A photo is
            always at least 10 % larger than the window, and an object fits into it where the range allows.
        mirrored: Share of windows of mirrored photos.
        rotated: Share of windows that are rotated and stretched.
        rotation_degrees: Largest rotation of those, in degrees.
        stretch: Largest factor by which one axis of those is longer and the other one shorter.
        own_position: Share of windows whose origin is their true position in the frame. The others get any position in
            the frame, so that the network is trained with every positional code.
        colour: Strength of changes of saturation, contrast, brightness and channels; 0 leaves colours alone.
        grey: Share of windows without colour.
        degraded: Share of windows that are blurred, compressed or noisy, as users' images may be.
        pasted: Share of photos with an object of another photo in front.
        synthetic: Share of windows of synthetic scenes instead of photos.
        noisy_boxes: Share of boxes whose edges are shifted.
        box_noise: Largest shift of those edges, as a share of the box's side.
        centre_points: Share of point prompts in the centre of a mask; the others are anywhere in it.
        objects_bias: Factor of the weight of masks of the kind "object" within their photo.

    Raises:
        ValueError: A share is not between 0 and 1, or the zoom's range is empty.
    """

    whole: float = 0.35
    whole_frame: float = 0.8
    shrink: float = 0.15
    zoom: tuple[float, float] = (0.25, 2.0)
    mirrored: float = 0.5
    rotated: float = 0.25
    rotation_degrees: float = 12.0
    stretch: float = 1.16
    own_position: float = 0.4
    colour: float = 1.0
    grey: float = 0.08
    degraded: float = 0.08
    pasted: float = 0.25
    synthetic: float = 0.1
    noisy_boxes: float = 0.5
    box_noise: float = 0.07
    centre_points: float = 0.6
    objects_bias: float = 1.0

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"The augmentation's {name} is a share from 0 to 1, not {getattr(self, name)}.")
        if not 0.0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"The zoom goes from a small to a large positive factor, not from {self.zoom}.")


PLAIN = Augmentation(
    whole=0.0,
    whole_frame=1.0,
    shrink=0.0,
    zoom=(1.0, 1.0),
    mirrored=0.0,
    rotated=0.0,
    own_position=1.0,
    colour=0.0,
    grey=0.0,
    degraded=0.0,
    pasted=0.0,
    synthetic=0.0,
    noisy_boxes=0.0,
    centre_points=1.0,
)
"""No augmentation: windows of the frame as the service makes it, with exact boxes and points in the centre."""
