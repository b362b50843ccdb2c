"""Geometry of windows: their placement on a photo, and the resampling of photos and masks into them.

Letters: (H, W) of the photo, S side of the window in frame pixels, s = S/4 side of the decoder's logits. Positions are
continuous: the centre of the first pixel is at (0.5, 0.5).
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.windows.augmentation import Augmentation
from service.sam.transforms import FRAME_SIZE, Size, input_size

Bytes = NDArray[np.uint8]
Matrix = NDArray[np.float64]
"""(3, 3), maps homogeneous (x, y, 1) to homogeneous (x, y, 1)."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, exclusive at the end."""

MASK_STRIDE = 4
"""Frame pixels that a logit covers along a side."""
TOKEN_STRIDE = 16
"""Frame pixels that an image token covers along a side."""
INSIDE_STRIDE = 2
"""Frame pixels that a value of the coverage by the photo covers along a side."""

_HAS_PILLOW = find_spec("PIL") is not None

_MIN_ENLARGEMENT = 1.1  # smallest ratio of a photo's side, if it is shown in part, and the window's
_MAX_OBJECT_SHARE = 0.92  # longer side of the object that the window shows, as a share of the window's side
_OVERSAMPLING = 2  # samples per logit along a side, of which coverage is the mean
_MIN_SAMPLING_RATE = 0.75  # samples per source pixel below which bilinear look-ups would skip pixels


@dataclass(frozen=True, slots=True)
class Placement:
    """Placement of a window on a photo and in the frame.

    Attributes:
        photo_size: Height and width of the photo, in pixels.
        scaled_size: Height and width of the photo in frame pixels.
        offset: Position (x, y) of the window's corner on the scaled photo, in frame pixels.
        side: Side of the window, S, in frame pixels.
        is_mirrored: Whether the photo is mirrored before the window is cut out.
        rotation: Rotation and stretch around the window's centre; None for an upright window.
        origin: Position (x, y) of the window in the frame, in image tokens.
    """

    photo_size: Size
    scaled_size: Size
    offset: tuple[int, int]
    side: int
    is_mirrored: bool
    rotation: Matrix | None
    origin: tuple[int, int]

    @property
    def matrix(self) -> Matrix:
        """Map from positions on the photo, in photo pixels, to positions in the window, in frame pixels."""
        height, width = self.photo_size
        scaled_height, scaled_width = self.scaled_size
        matrix = _scaling(scaled_width / width, scaled_height / height)
        if self.is_mirrored:
            matrix = matrix @ _translation(width, 0.0) @ _scaling(-1.0, 1.0)
        matrix = _translation(-self.offset[0], -self.offset[1]) @ matrix
        return matrix if self.rotation is None else self.rotation @ matrix

    @property
    def visible_size(self) -> Size:
        """Height and width of the photo in an upright window, in frame pixels."""
        return (
            min(self.side, self.scaled_size[0] - self.offset[1]),
            min(self.side, self.scaled_size[1] - self.offset[0]),
        )


def place_window(
    photo_size: Size, target_box: Box, side: int, augmentation: Augmentation, random: np.random.Generator
) -> Placement:
    """Choose a window that shows an object.

    Args:
        photo_size: Height and width of the photo, in pixels.
        target_box: Box of the object, in photo pixels.
        side: Side of the window, S, in frame pixels, a multiple of 16 up to 1024.
        augmentation: Augmentation of windows.
        random: Generator of the random choices.
    """
    height, width = photo_size
    x0, y0, x1, y1 = target_box
    is_mirrored = random.random() < augmentation.mirrored
    if is_mirrored:
        x0, x1 = width - x1, width - x0
    zoom = _zoom(max(x1 - x0, y1 - y0) / max(height, width), side, augmentation, random)
    scaled_height, scaled_width = input_size(photo_size, round(FRAME_SIZE * zoom))
    scaled_height, scaled_width = max(scaled_height, 1), max(scaled_width, 1)
    across, down = scaled_width / width, scaled_height / height
    offset = (
        _offset(x0 * across, x1 * across, side, scaled_width, random.random()),
        _offset(y0 * down, y1 * down, side, scaled_height, random.random()),
    )
    rotation = _rotation(side, augmentation, random) if random.random() < augmentation.rotated else None
    last = (FRAME_SIZE - side) // TOKEN_STRIDE
    if random.random() < augmentation.own_position:
        origin = (min(offset[0] // TOKEN_STRIDE, last), min(offset[1] // TOKEN_STRIDE, last))
    else:
        origin = (int(random.integers(last + 1)), int(random.integers(last + 1)))
    return Placement(photo_size, (scaled_height, scaled_width), offset, side, is_mirrored, rotation, origin)


def render_photo(image: Bytes, placement: Placement) -> Bytes:
    """Render a photo (H, W, 3) into the window, (S, S, 3); the photo's edge is repeated outside.

    An upright window has the same pixels as in the service, since the same function of Pillow resizes it. Without
    Pillow, on a machine that only trains, it is resampled like a rotated window. Then enlarged photos differ by one
    grey level, and reduced ones by more along edges.
    """
    if placement.rotation is not None or not _HAS_PILLOW:
        size = (placement.side, placement.side)
        return _warp(image, placement.matrix, size, border=cv2.BORDER_REPLICATE)
    from PIL import Image  # noqa: PLC0415 - see above

    height, width = placement.photo_size
    visible_height, visible_width = placement.visible_size
    x0, x1 = ((placement.offset[0] + end) * width / placement.scaled_size[1] for end in (0, visible_width))
    y0, y1 = ((placement.offset[1] + end) * height / placement.scaled_size[0] for end in (0, visible_height))
    if placement.is_mirrored:
        x0, x1 = width - x1, width - x0
    box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    crop = Image.fromarray(image).resize((visible_width, visible_height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(crop)
    if placement.is_mirrored:
        pixels = pixels[:, ::-1]
    window = np.empty((placement.side, placement.side, 3), np.uint8)
    window[:visible_height, :visible_width] = pixels
    window[visible_height:, :visible_width] = pixels[-1:]
    window[:, visible_width:] = window[:, visible_width - 1 : visible_width]
    return window


def render_inside(placement: Placement) -> Bytes:
    """Render the coverage of the window by the photo, (S/2, S/2), 0 to 255."""
    side = placement.side // INSIDE_STRIDE
    if placement.rotation is None:
        down, across = (
            np.clip(length / INSIDE_STRIDE - np.arange(side), 0.0, 1.0) for length in placement.visible_size
        )
        return np.asarray(np.round(255.0 * down[:, None] * across), np.uint8)
    # A white photo with about as many pixels as the result, so that its edge is as sharp as possible.
    height, width = (max(length // INSIDE_STRIDE, 1) for length in placement.scaled_size)
    fitting = _scaling(placement.photo_size[1] / width, placement.photo_size[0] / height)
    matrix = _scaling(1 / INSIDE_STRIDE, 1 / INSIDE_STRIDE) @ placement.matrix @ fitting
    return _warp(np.full((height, width), 255, np.uint8), matrix, (side, side), border=cv2.BORDER_CONSTANT)


def render_mask(mask: Bytes, placement: Placement, valid: Bytes) -> Bytes:
    """Render the coverage of each logit's cell by a mask, (s, s), 0 to 255.

    Args:
        mask: Mask of the photo, (H, W), 0 and 1.
        placement: Placement of the window.
        valid: Coverage by the photo, (s, s), 0 to 255; a mask covers no more than that.
    """
    side = placement.side // MASK_STRIDE
    coverage = np.zeros((side, side), np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return coverage
    scale = _OVERSAMPLING / MASK_STRIDE
    to_samples = _scaling(scale, scale) @ placement.matrix
    rows, columns = _covered_cells(to_samples, (x, y, x + width, y + height), side)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return coverage
    # The crop has a margin around the mask, so that its repeated edge is empty even after a reduction. Only at the edge
    # of the photo the mask continues.
    margin = math.ceil(1 / _mean_scale(to_samples)) + 1
    left, top = max(x - margin, 0), max(y - margin, 0)
    crop = mask[top : y + height + margin, left : x + width + margin] * np.uint8(255)
    corner = _translation(-columns.start * _OVERSAMPLING, -rows.start * _OVERSAMPLING)
    cells_size = (rows.stop - rows.start, columns.stop - columns.start)
    size = (cells_size[0] * _OVERSAMPLING, cells_size[1] * _OVERSAMPLING)
    samples = _warp(crop, corner @ to_samples @ _translation(left, top), size, border=cv2.BORDER_REPLICATE)
    cells = cv2.resize(samples, (cells_size[1], cells_size[0]), interpolation=cv2.INTER_AREA)
    coverage[rows, columns] = cv2.multiply(cells, valid[rows, columns], scale=1 / 255)
    return coverage


def visible_shares(boxes: NDArray[np.float64], placement: Placement) -> NDArray[np.float64]:
    """Return the share of each box (N, 4) on the photo that lies in the window, (N,).

    A rotated box counts by its surrounding upright box.
    """
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]]  # (N, 4, 2)
    matrix = placement.matrix
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    low, high = moved.min(1), moved.max(1)  # (N, 2)
    seen = (high.clip(0.0, placement.side) - low.clip(0.0, placement.side)).prod(1)
    shares: NDArray[np.float64] = seen / np.maximum((high - low).prod(1), 1e-9)
    return shares


def _zoom(length: float, side: int, augmentation: Augmentation, random: np.random.Generator) -> float:
    """Draw the size of the photo relative to its size in the served frame.

    Args:
        length: Longer side of the object that the window shows, as a share of the photo's longer side.
        side: Side of the window, S, in frame pixels.
        augmentation: Augmentation of windows.
        random: Generator of the random choices.
    """
    whole = side / FRAME_SIZE
    if random.random() < (augmentation.whole_frame if side == FRAME_SIZE else augmentation.whole):
        return whole * (1.0 - augmentation.shrink * random.random())
    smallest, largest = augmentation.zoom
    smallest = min(max(smallest, _MIN_ENLARGEMENT * whole), largest)
    largest = max(min(largest, _MAX_OBJECT_SHARE * whole / max(length, 1e-6)), smallest)
    return math.exp(math.log(smallest) + random.random() * (math.log(largest) - math.log(smallest)))


def _offset(start: float, end: float, side: int, length: int, share: float) -> int:
    """Return the start of a window that shows an object, along one axis, in frame pixels and whole tokens.

    A window that is at least as long as the photo starts with it, like the served frame.

    Args:
        start: First position of the object on the scaled photo.
        end: Last position of the object on the scaled photo.
        side: Side of the window, S, in frame pixels.
        length: Length of the scaled photo, in frame pixels.
        share: Position among the windows that show the object, 0..1.
    """
    if length <= side:
        return 0
    low, high = sorted((end - side, start))
    tokens = round((low + share * (high - low)) / TOKEN_STRIDE)
    return TOKEN_STRIDE * min(max(tokens, 0), -(-(length - side) // TOKEN_STRIDE))


def _rotation(side: int, augmentation: Augmentation, random: np.random.Generator) -> Matrix:
    angle = math.radians(augmentation.rotation_degrees) * random.uniform(-1, 1)
    stretch = augmentation.stretch ** random.uniform(-1, 1)
    cos, sin = math.cos(angle), math.sin(angle)
    about_origin = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    centre = side / 2
    rotation: Matrix = (
        _translation(centre, centre) @ about_origin @ _scaling(stretch, 1 / stretch) @ _translation(-centre, -centre)
    )
    return rotation


def _covered_cells(to_samples: Matrix, box: Box, side: int) -> tuple[slice, slice]:
    """Return the rows and columns of cells that a mask with this box on the photo can cover, with bilinear margins."""
    x0, y0, x1, y1 = box
    corners = np.array([[x0, y0, 1.0], [x1, y0, 1.0], [x0, y1, 1.0], [x1, y1, 1.0]]) @ to_samples.T
    spread = np.abs(to_samples[:2, :2]).sum(1) / 2 + 1  # half a photo pixel, and one sample
    low = np.floor((corners[:, :2].min(0) - spread) / _OVERSAMPLING).clip(0, side).astype(int)
    high = np.ceil((corners[:, :2].max(0) + spread) / _OVERSAMPLING).clip(0, side).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _warp(source: Bytes, matrix: Matrix, size: Size, *, border: int) -> Bytes:
    """Resample a source into (h, w), bilinear; a much finer source is reduced first, so that no pixel is skipped."""
    height, width = source.shape[:2]
    scale = _mean_scale(matrix)
    if scale < _MIN_SAMPLING_RATE:
        reduced_height, reduced_width = max(round(height * scale), 1), max(round(width * scale), 1)
        source = np.asarray(cv2.resize(source, (reduced_width, reduced_height), interpolation=cv2.INTER_AREA), np.uint8)
        matrix = matrix @ _scaling(width / reduced_width, height / reduced_height)
    # OpenCV's origin is the centre of the first pixel.
    matrix = _translation(-0.5, -0.5) @ matrix @ _translation(0.5, 0.5)
    warped = cv2.warpAffine(source, matrix[:2], (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(warped, np.uint8)


def _mean_scale(matrix: Matrix) -> float:
    """Return the mean enlargement of lengths over all directions."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def _translation(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _scaling(x: float, y: float) -> Matrix:
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])
