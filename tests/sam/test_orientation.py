"""Mapping of points between stored and upright pixels, against Pillow, which transposes whole images."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.sam.orientation import stored_to_upright, upright_to_stored

WIDTH, HEIGHT = 7, 4  # of the stored image


def upright_of(stored: Image.Image, orientation: int) -> Image.Image:
    """Return the image as Pillow transposes it for this orientation."""
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_centre_of_every_pixel_moves_with_its_pixel(orientation):
    values = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    upright = np.asarray(upright_of(Image.fromarray(values), orientation))
    stored = [(x + 0.5, y + 0.5) for y in range(HEIGHT) for x in range(WIDTH)]

    moved = stored_to_upright(stored, orientation, upright.shape)

    assert [upright[int(y), int(x)] for x, y in moved] == [values[int(y), int(x)] for x, y in stored]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_corners_stay_on_the_border_and_the_way_back_is_exact(orientation):
    upright_size = (WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH)
    stored = [(0.0, 0.0), (WIDTH, 0.0), (0.0, HEIGHT), (2.25, 3.75)]

    moved = stored_to_upright(stored, orientation, upright_size)

    assert all(0 <= x <= upright_size[1] and 0 <= y <= upright_size[0] for x, y in moved)
    assert upright_to_stored(moved, orientation, upright_size) == stored
