"""Where a window of the served frame lies on a photo, and how photos and masks are resampled into it.

Letters: (H, W) of the photo, S side of the window in frame pixels, s = S/4 side of the decoder's logits. Positions are
continuous: the middle of the first pixel is at (0.5, 0.5).
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.window_augmentation import Augmentation
from service.sam.transforms import FRAME_SIZE, Size, input_size

Bytes = NDArray[np.uint8]
Matrix = NDArray[np.float64]
"""(3, 3), from homogeneous (x, y, 1) to the same."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, exclusive at the end."""

MASK_STRIDE = 4
"""Frame pixels that a logit covers along a side."""
TOKEN_STRIDE = 16
"""Frame pixels that an image token covers along a side."""
INSIDE_STRIDE = 2
"""Frame pixels that a value of the coverage by the photo covers along a side."""

_HAS_PILLOW = find_spec("PIL") is not None

_PARTLY_LARGER = 1.1  # a photo shown in part is at least this much larger than the window
_FITTING = 0.92  # of the window's side, for the longer side of the object that the window shows
_OVERSAMPLING = 2  # samples per logit along a side, of which coverage is the mean
_COARSEST = 0.75  # samples per source pixel below which bilinear look-ups would skip pixels


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a window lies.

    Attributes:
        photo_size: (H, W) of the photo, in pixels.
        scaled_size: Height and width of the photo in frame pixels.
        offset: (x, y) of the window's corner on the scaled photo, in frame pixels.
        side: S, in frame pixels.
        is_mirrored: Whether the photo is mirrored before the window is cut out.
        turn: Rotation and stretch around the window's middle, or None where the window is upright.
        origin: (x, y) of the window in the frame, in image tokens.
    """

    photo_size: Size
    scaled_size: Size
    offset: tuple[int, int]
    side: int
    is_mirrored: bool
    turn: Matrix | None
    origin: tuple[int, int]

    @property
    def matrix(self) -> Matrix:
        """From positions on the photo, in photo pixels, to positions in the window, in frame pixels."""
        height, width = self.photo_size
        scaled_height, scaled_width = self.scaled_size
        matrix = _scaling(scaled_width / width, scaled_height / height)
        if self.is_mirrored:
            matrix = matrix @ _shift(width, 0.0) @ _scaling(-1.0, 1.0)
        matrix = _shift(-self.offset[0], -self.offset[1]) @ matrix
        return matrix if self.turn is None else self.turn @ matrix

    @property
    def visible_size(self) -> Size:
        """Height and width of the photo in an upright window, in frame pixels."""
        return (
            min(self.side, self.scaled_size[0] - self.offset[1]),
            min(self.side, self.scaled_size[1] - self.offset[0]),
        )


def place_window(
    photo_size: Size, aim: Box, side: int, augmentation: Augmentation, random: np.random.Generator
) -> Placement:
    """Chooses a window that shows an object.

    Args:
        photo_size: (H, W) of the photo, in pixels.
        aim: Box of the object, in photo pixels.
        side: S, in frame pixels, a multiple of 16 up to 1024.
        augmentation: How windows vary.
        random: Source of the choices.
    """
    height, width = photo_size
    x0, y0, x1, y1 = aim
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
    turn = _turn(side, augmentation, random) if random.random() < augmentation.turned else None
    last = (FRAME_SIZE - side) // TOKEN_STRIDE
    if random.random() < augmentation.own_place:
        origin = (min(offset[0] // TOKEN_STRIDE, last), min(offset[1] // TOKEN_STRIDE, last))
    else:
        origin = (int(random.integers(last + 1)), int(random.integers(last + 1)))
    return Placement(photo_size, (scaled_height, scaled_width), offset, side, is_mirrored, turn, origin)


def render_photo(image: Bytes, placement: Placement) -> Bytes:
    """The photo (H, W, 3) in the window, (S, S, 3); its edge is repeated outside.

    An upright window holds the pixels that the service's own resize gives, since it is the same call of Pillow. Without
    Pillow, on a machine that only trains, it is resampled as a turned one is: enlarged photos differ by one grey level,
    reduced ones by more along edges.
    """
    if placement.turn is not None or not _HAS_PILLOW:
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
    piece = Image.fromarray(image).resize((visible_width, visible_height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(piece)
    if placement.is_mirrored:
        pixels = pixels[:, ::-1]
    window = np.empty((placement.side, placement.side, 3), np.uint8)
    window[:visible_height, :visible_width] = pixels
    window[visible_height:, :visible_width] = pixels[-1:]
    window[:, visible_width:] = window[:, visible_width - 1 : visible_width]
    return window


def render_inside(placement: Placement) -> Bytes:
    """Coverage of the window by the photo, (S/2, S/2), 0 to 255."""
    side = placement.side // INSIDE_STRIDE
    if placement.turn is None:
        down, across = (
            np.clip(length / INSIDE_STRIDE - np.arange(side), 0.0, 1.0) for length in placement.visible_size
        )
        return np.asarray(np.round(255.0 * down[:, None] * across), np.uint8)
    # A white photo of about the pixels that the result has, so that its edge is as sharp as they allow.
    height, width = (max(length // INSIDE_STRIDE, 1) for length in placement.scaled_size)
    fitting = _scaling(placement.photo_size[1] / width, placement.photo_size[0] / height)
    matrix = _scaling(1 / INSIDE_STRIDE, 1 / INSIDE_STRIDE) @ placement.matrix @ fitting
    return _warp(np.full((height, width), 255, np.uint8), matrix, (side, side), border=cv2.BORDER_CONSTANT)


def render_mask(mask: Bytes, placement: Placement, valid: Bytes) -> Bytes:
    """Coverage of each logit's cell by a mask, (s, s), 0 to 255.

    Args:
        mask: (H, W), 0 and 1.
        placement: Where the window lies.
        valid: (s, s), 0 to 255, coverage by the photo; a mask covers no more than that.
    """
    side = placement.side // MASK_STRIDE
    coverage = np.zeros((side, side), np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return coverage
    scale = _OVERSAMPLING / MASK_STRIDE
    to_samples = _scaling(scale, scale) @ placement.matrix
    rows, columns = _reached(to_samples, (x, y, x + width, y + height), side)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return coverage
    # What is around the mask comes along, so that the piece's edge, which is repeated, is empty after a reduction, too.
    # Only at the edge of the photo the mask goes on.
    margin = math.ceil(1 / _scale(to_samples)) + 1
    left, top = max(x - margin, 0), max(y - margin, 0)
    piece = mask[top : y + height + margin, left : x + width + margin] * np.uint8(255)
    corner = _shift(-columns.start * _OVERSAMPLING, -rows.start * _OVERSAMPLING)
    reached = (rows.stop - rows.start, columns.stop - columns.start)
    size = (reached[0] * _OVERSAMPLING, reached[1] * _OVERSAMPLING)
    samples = _warp(piece, corner @ to_samples @ _shift(left, top), size, border=cv2.BORDER_REPLICATE)
    cells = cv2.resize(samples, (reached[1], reached[0]), interpolation=cv2.INTER_AREA)
    coverage[rows, columns] = cv2.multiply(cells, valid[rows, columns], scale=1 / 255)
    return coverage


def visible_shares(boxes: NDArray[np.float64], placement: Placement) -> NDArray[np.float64]:
    """Share of boxes (N, 4) on the photo that lies in the window, (N,); of what surrounds them after a rotation."""
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]]  # (N, 4, 2)
    matrix = placement.matrix
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    low, high = moved.min(1), moved.max(1)  # (N, 2)
    seen = (high.clip(0.0, placement.side) - low.clip(0.0, placement.side)).prod(1)
    shares: NDArray[np.float64] = seen / np.maximum((high - low).prod(1), 1e-9)
    return shares


def _zoom(length: float, side: int, augmentation: Augmentation, random: np.random.Generator) -> float:
    """Size of the photo against the served frame.

    Args:
        length: Longer side of the object that the window shows, as a share of the photo's longer side.
        side: S, in frame pixels.
        augmentation: How windows vary.
        random: Source of the choices.
    """
    whole = side / FRAME_SIZE
    if random.random() < (augmentation.whole_frame if side == FRAME_SIZE else augmentation.whole):
        return whole * (1.0 - augmentation.shrink * random.random())
    smallest, largest = augmentation.zoom
    smallest = min(max(smallest, _PARTLY_LARGER * whole), largest)
    largest = max(min(largest, _FITTING * whole / max(length, 1e-6)), smallest)
    return math.exp(math.log(smallest) + random.random() * (math.log(largest) - math.log(smallest)))


def _offset(start: float, end: float, side: int, length: int, share: float) -> int:
    """Where a window begins that shows an object, along one axis, in whole tokens and frame pixels.

    A window that is not shorter than the photo begins with it, as the served frame does.

    Args:
        start: First position of the object on the scaled photo.
        end: Last position.
        side: S.
        length: Length of the scaled photo.
        share: 0 to 1, place among the windows that show the object.
    """
    if length <= side:
        return 0
    low, high = sorted((end - side, start))
    tokens = round((low + share * (high - low)) / TOKEN_STRIDE)
    return TOKEN_STRIDE * min(max(tokens, 0), -(-(length - side) // TOKEN_STRIDE))


def _turn(side: int, augmentation: Augmentation, random: np.random.Generator) -> Matrix:
    angle = math.radians(augmentation.rotation_degrees) * random.uniform(-1, 1)
    stretch = augmentation.stretch ** random.uniform(-1, 1)
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    middle = side / 2
    turn: Matrix = _shift(middle, middle) @ rotation @ _scaling(stretch, 1 / stretch) @ _shift(-middle, -middle)
    return turn


def _reached(to_samples: Matrix, box: Box, side: int) -> tuple[slice, slice]:
    """Rows and columns of cells that a mask with this box on the photo can cover, bilinear look-ups included."""
    x0, y0, x1, y1 = box
    corners = np.array([[x0, y0, 1.0], [x1, y0, 1.0], [x0, y1, 1.0], [x1, y1, 1.0]]) @ to_samples.T
    spread = np.abs(to_samples[:2, :2]).sum(1) / 2 + 1  # half a photo pixel, and one sample
    low = np.floor((corners[:, :2].min(0) - spread) / _OVERSAMPLING).clip(0, side).astype(int)
    high = np.ceil((corners[:, :2].max(0) + spread) / _OVERSAMPLING).clip(0, side).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _warp(source: Bytes, matrix: Matrix, size: Size, *, border: int) -> Bytes:
    """Resamples a source into (h, w), bilinear; one that is much finer is reduced first, so that no pixel is lost."""
    height, width = source.shape[:2]
    scale = _scale(matrix)
    if scale < _COARSEST:
        reduced_height, reduced_width = max(round(height * scale), 1), max(round(width * scale), 1)
        source = np.asarray(cv2.resize(source, (reduced_width, reduced_height), interpolation=cv2.INTER_AREA), np.uint8)
        matrix = matrix @ _scaling(width / reduced_width, height / reduced_height)
    # OpenCV counts from the middle of the first pixel.
    matrix = _shift(-0.5, -0.5) @ matrix @ _shift(0.5, 0.5)
    warped = cv2.warpAffine(source, matrix[:2], (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(warped, np.uint8)


def _scale(matrix: Matrix) -> float:
    """How many times longer things become, on average of all directions."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _scaling(x: float, y: float) -> Matrix:
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])
