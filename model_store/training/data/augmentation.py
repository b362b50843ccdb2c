"""From a shelf to a batch as the network sees it: windows, colours, pasted objects, all in torch on the run's device.

Letters: B pictures, S side of the frame in pixels, s = S/4 side of the decoder's logits, G masks a picture.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model_store.network.model import PIXEL_MEAN, PIXEL_STD
from model_store.training.data.shelf import Shelf, sample_masks, sample_photos

MASK_STRIDE = 4
"""Frame pixels a logit covers along a side."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How pictures are varied; the defaults are those of the bundled model.

    Args:
        whole: share of pictures shown whole and upright, as they are served.
        zoom: smallest and largest enlargement of the others, against the whole picture filling the frame.
        stretch: largest factor between the two axes.
        rotation_degrees: largest, of a quarter of the windows.
        flip: probability of a mirrored picture.
        colour: strength of changes of brightness, contrast, saturation and channels; 0 leaves colours alone.
        paste: probability that an object of another picture of the batch is laid on a picture.
    """

    whole: float = 0.35
    zoom: tuple[float, float] = (0.7, 3.5)
    stretch: float = 1.2
    rotation_degrees: float = 15.0
    flip: float = 0.5
    colour: float = 1.0
    paste: float = 0.25


PLAIN = Augmentation(whole=1.0, flip=0.0, colour=0.0, paste=0.0)
"""Pictures as they are served."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B pictures with masks.

    Attributes:
        frames: (B, 3, S, S) float32, normalised, 0 outside the pictures.
        valid: (B, 1, s, s) float32, share of each logit's cell that lies in the picture.
        masks: (B, G, s, s) float32, coverage of each cell.
        weights: (B, G) float32, how often a mask is asked for; 0 where there is none.
    """

    frames: Tensor
    valid: Tensor
    masks: Tensor
    weights: Tensor


def make_batch(
    shelf: Shelf,
    chosen: Tensor,
    frame_size: int,
    augmentation: Augmentation,
    *,
    max_masks: int,
    generator: torch.Generator,
    least_cells: int = 4,
) -> Batch:
    """Samples windows of photos with their masks.

    Args:
        shelf: where photos and masks are; the batch is made on its device.
        chosen: (B,) int64 on the CPU, which photos.
        frame_size: S, a multiple of 32.
        augmentation: how they are varied.
        max_masks: G; a photo with more shows a random choice of them.
        generator: of the CPU: the same state gives the same windows on any device.
        least_cells: masks of fewer visible cells are not asked for.
    """
    device = shelf.photos.device
    masks = _choose_masks(shelf, chosen, max_masks, generator)  # (B, G) on the CPU
    matrices = _windows(shelf, chosen, masks, frame_size, augmentation, generator)
    on_device, chosen_there, masks_there = matrices.to(device), chosen.to(device), masks.to(device)
    frames, inside = sample_photos(shelf, chosen_there, on_device, frame_size)
    side = frame_size // MASK_STRIDE
    coarse = on_device.clone()
    coarse[:, :, :2] *= MASK_STRIDE
    coverage = sample_masks(shelf, masks_there, coarse, side)
    valid = torch.nn.functional.avg_pool2d(inside.float(), MASK_STRIDE)
    weights = torch.where(masks_there >= 0, shelf.mask_weights[masks_there.clamp(min=0)], 0.0)
    if augmentation.colour:
        frames = _recolour(frames, augmentation.colour, generator)
    if augmentation.paste:
        frames, coverage, weights = _paste(
            shelf, frames, coverage, weights, masks, matrices, augmentation.paste, generator
        )
    visible = (coverage > 0.5).sum((2, 3))
    weights = weights * (visible >= least_cells)
    mean, std = (torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    frames = torch.where(inside, (frames - mean) / std, 0.0)
    return Batch(frames.contiguous(memory_format=torch.channels_last), valid, coverage, weights)


def _choose_masks(shelf: Shelf, chosen: Tensor, max_masks: int, generator: torch.Generator) -> Tensor:
    """(B, G): masks of each photo, at most `max_masks` in random order, then -1."""
    masks = torch.full((len(chosen), max_masks), -1, dtype=torch.int64)
    for row, (first, stop) in enumerate(shelf.mask_ranges[chosen].tolist()):
        order = torch.randperm(stop - first, generator=generator)[:max_masks]
        masks[row, : len(order)] = first + order
    return masks


def _windows(
    shelf: Shelf, chosen: Tensor, masks: Tensor, size: int, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """(B, 2, 3) on the CPU, from frame to photo, pixels with centres at halves."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    device = shelf.photos.device
    sizes = shelf.photo_sizes[chosen.to(device)].tolist()
    aims = shelf.mask_boxes[masks[:, 0].clamp(min=0).to(device)].tolist()  # the first mask of each, if it has one
    matrices = []
    for (height, width), aim, has_aim in zip(sizes, aims, (masks[:, 0] >= 0).tolist(), strict=True):
        step = max(height, width) / size  # photo pixels a frame pixel, the whole photo filling the frame
        steps, angle, x0, y0 = (step, step), 0.0, 0.0, 0.0
        if uniform(0, 1) >= augmentation.whole:
            zoom = math.exp(uniform(*(math.log(bound) for bound in augmentation.zoom)))
            stretch = math.exp(0.5 * uniform(-1, 1) * math.log(augmentation.stretch))
            steps = (step / zoom * stretch, step / zoom / stretch)
            if uniform(0, 1) < 0.25:
                angle = math.radians(uniform(-1, 1) * augmentation.rotation_degrees)
            # A window follows a mask, so that it seldom shows nothing that has one.
            aim_y, aim_x, piece_height, piece_width = aim if has_aim else (0, 0, height, width)
            x0 = _start(aim_x + uniform(0, piece_width), steps[0] * size, width, uniform(0, 1))
            y0 = _start(aim_y + uniform(0, piece_height), steps[1] * size, height, uniform(0, 1))
        matrix = torch.tensor([[steps[0], 0.0, x0], [0.0, steps[1], y0]])
        if angle:
            matrix = _turned(matrix, angle, size)
        if uniform(0, 1) < augmentation.flip:
            # The picture keeps its place at the left of the frame, the padding its at the right.
            matrix = torch.tensor([[-1.0, 0.0, float(width)], [0.0, 1.0, 0.0]])[:, :2] @ matrix + torch.tensor(
                [[0.0, 0.0, float(width)], [0.0, 0.0, 0.0]]
            )
        matrices.append(matrix)
    return torch.stack(matrices)


def _start(aim: float, window: float, length: float, place: float) -> float:
    """Where a window that holds `aim` starts; one longer than the photo starts with it, as when served."""
    if window >= length:
        return 0.0
    return min(max(aim - window * (0.2 + 0.6 * place), 0.0), length - window)


def _turned(matrix: Tensor, angle: float, size: int) -> Tensor:
    """The window turned about its middle."""
    cos, sin, middle = math.cos(angle), math.sin(angle), size / 2
    turn = torch.tensor(
        [
            [cos, -sin, middle - cos * middle + sin * middle],
            [sin, cos, middle - sin * middle - cos * middle],
            [0.0, 0.0, 1.0],
        ]
    )
    return matrix @ turn


def _recolour(frames: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and channels, each picture its own; one in ten grey."""
    batch, device = len(frames), frames.device

    def draw(*shape: int) -> Tensor:
        return (torch.rand(batch, *shape, 1, 1, generator=generator).to(device) * 2 - 1) * strength

    grey = frames.mean(1, keepdim=True)
    is_grey = torch.rand(batch, 1, 1, 1, generator=generator).to(device) < 0.1 * strength
    saturation = torch.where(is_grey, 0.0, 1 + 0.4 * draw(1))
    frames = grey + (frames - grey) * saturation
    middle = grey.mean((2, 3), keepdim=True)
    frames = middle + (frames - middle) * (1 + 0.3 * draw(1))
    frames = frames * (1 + 0.1 * draw(3)) + 30.0 * draw(1)
    return frames.clamp(0.0, 255.0)


def _paste(
    shelf: Shelf,
    frames: Tensor,
    coverage: Tensor,
    weights: Tensor,
    masks: Tensor,
    matrices: Tensor,
    probability: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lays an object of the picture before in the batch on some pictures; what it hides loses those pixels."""
    batch, size = len(frames), frames.shape[-1]
    donor = torch.roll(torch.arange(batch), 1)
    takes = (torch.rand(batch, generator=generator) < probability) & (masks[donor, 0] >= 0)
    to = torch.nonzero(takes)[:, 0]
    if batch < 2 or len(to) == 0:
        return frames, coverage, weights
    source, device = donor[to], frames.device
    # The donor's first mask, at the donor's own window: picture and outline fit by construction.
    alpha = sample_masks(shelf, masks[source, :1].to(device), matrices[source].to(device), size)  # (K, 1, S, S)
    coarse = torch.nn.functional.avg_pool2d(alpha, MASK_STRIDE)
    share = coarse.mean((1, 2, 3))
    # Something that covers half the frame hides the picture rather than standing in it.
    fits = ((share > 0.002) & (share < 0.4)).to(alpha.dtype)[:, None, None, None]
    alpha, coarse = alpha * fits, coarse * fits
    to, source = to.to(device), source.to(device)
    original = frames
    frames = frames.clone()
    frames[to] = original[to] * (1 - alpha) + original[source] * alpha
    coverage, weights = coverage.clone(), weights.clone()
    coverage[to] = coverage[to] * (1 - coarse)
    # The last place is the one least likely taken; what stood there is not asked for any more.
    coverage[to, -1] = coarse[:, 0]
    weights[to, -1] = fits[:, 0, 0, 0]
    return frames, coverage, weights
