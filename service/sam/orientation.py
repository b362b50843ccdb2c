"""EXIF orientation: mapping of points between the pixels as a file stores them and the upright image.

Some programs show the stored pixels and ignore the orientation. Their points and polygons refer to that image.
"""

from collections.abc import Iterable

from service.sam.transforms import Size

Point = tuple[float, float]

_FIRST_TRANSPOSED = 5  # from this orientation on, rows of the file are columns of the upright image
_MIRRORED_X = frozenset({2, 3, 6, 7})
_MIRRORED_Y = frozenset({3, 4, 7, 8})


def stored_to_upright(points: Iterable[Point], orientation: int, upright_size: Size) -> list[Point]:
    """Return points of the stored image as points of the upright image.

    Args:
        points: Points (x, y), pixels; the border is from 0 to width and from 0 to height.
        orientation: EXIF orientation of the file, 1 to 8.
        upright_size: Height and width of the upright image, pixels.
    """
    height, width = upright_size
    upright = []
    for stored_x, stored_y in points:
        x, y = (stored_y, stored_x) if orientation >= _FIRST_TRANSPOSED else (stored_x, stored_y)
        upright.append(
            (width - x if orientation in _MIRRORED_X else x, height - y if orientation in _MIRRORED_Y else y)
        )
    return upright


def upright_to_stored(points: Iterable[Point], orientation: int, upright_size: Size) -> list[Point]:
    """Return points of the upright image as points of the stored image; the inverse of `stored_to_upright`.

    Args:
        points: Points (x, y), pixels.
        orientation: EXIF orientation of the file, 1 to 8.
        upright_size: Height and width of the upright image, pixels.
    """
    height, width = upright_size
    stored = []
    for upright_x, upright_y in points:
        x = width - upright_x if orientation in _MIRRORED_X else upright_x
        y = height - upright_y if orientation in _MIRRORED_Y else upright_y
        stored.append((y, x) if orientation >= _FIRST_TRANSPOSED else (x, y))
    return stored
