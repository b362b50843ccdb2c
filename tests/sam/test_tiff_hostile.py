"""TIFF files that are damaged or made to be slow or large are refused, with the reason and within bounds."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sam.sample_values import gradient
from sam.tiff_files import LONG, deflate, directory, lzw, one, tiff_file

from service.errors import ImageTooLarge, ServiceError, UndecodableImage
from service.sam.decoded_image import ReadOptions
from service.sam.images import decode_image

THUMBNAIL = directory(np.full((12, 16, 3), 50, np.uint8), t254=1)


def read(data, levels="auto", max_pixels=1_000_000):
    return decode_image(data, max_pixels=max_pixels, options=ReadOptions(levels))


def peak_bytes(call):
    """Return the peak of the memory that Python allocates during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_loop_of_thumbnails_is_refused():
    for data in (tiff_file(THUMBNAIL, THUMBNAIL, loop=True), tiff_file(THUMBNAIL, loop=True)):
        with pytest.raises(UndecodableImage, match="loop"):
            read(data)


def test_a_loop_behind_the_image_does_not_matter():
    image = gradient(20, 30)

    assert np.array_equal(read(tiff_file(directory(image.astype(np.uint16) * 257), loop=True)).pixels, image)


def test_so_many_thumbnails_that_reading_them_is_an_attack_are_refused():
    with pytest.raises(UndecodableImage, match="directories"):
        read(tiff_file(*[THUMBNAIL] * 65))
    with pytest.raises(UndecodableImage, match="sub-directories"):
        read(tiff_file(THUMBNAIL, subs=[THUMBNAIL] * 65))


def test_a_directory_that_contains_itself_is_refused():
    data = bytearray(tiff_file(THUMBNAIL, subs=[THUMBNAIL]))
    (first,) = struct.unpack_from("<I", data, 4)
    entry = data.index(struct.pack("<HHI", 330, LONG, 1), first)
    struct.pack_into("<I", data, entry + 8, first)

    with pytest.raises(UndecodableImage, match="loop"):
        read(bytes(data))


def test_a_directory_of_too_many_tags_is_refused():
    data = b"II*\0" + struct.pack("<IH", 8, 1025) + bytes(12 * 1025 + 4)

    with pytest.raises(UndecodableImage, match="1025 tags"):
        read(data)


def test_a_tag_of_too_many_values_is_refused():
    data = bytearray(one(np.zeros((20, 30, 3), np.uint16)))
    entry = data.index(struct.pack("<HHI", 258, 3, 3))
    struct.pack_into("<I", data, entry + 4, 2**31)

    with pytest.raises(UndecodableImage, match="values"):
        read(bytes(data))


@pytest.mark.parametrize("number", [0, 10_000, 65_535])
def test_an_impossible_number_of_bands_is_refused(number):
    with pytest.raises(UndecodableImage, match="bands"):
        read(one(np.zeros((20, 30, 3), np.uint16), t277=number))


@pytest.mark.parametrize("tile", [0, 8, 24, 65_520])
def test_impossible_tiles_are_refused(tile):
    with pytest.raises((UndecodableImage, ImageTooLarge)):
        read(one(np.zeros((20, 30, 3), np.uint16), tile=16, t322=tile, t323=tile))


def test_missing_or_surplus_pieces_are_refused():
    for change in ({"t278": 3}, {"t278": 0}, {"t284": 2}):
        with pytest.raises(UndecodableImage, match="strips or tiles"):
            read(one(np.zeros((20, 30, 3), np.uint16), rows=5, **change))


def test_pieces_behind_the_end_of_the_file_are_refused():
    data = bytearray(one(np.zeros((20, 30, 3), np.uint16)))
    struct.pack_into("<I", data, data.index(struct.pack("<HHI", 279, LONG, 1)) + 8, 2**32 - 1)

    with pytest.raises(UndecodableImage, match="cut off"):
        read(bytes(data))


def test_many_bands_of_a_large_image_are_refused_before_they_are_read():
    row = np.zeros((1, 1000, 60), np.float64)
    data = one(row, compress=(deflate, 8), t257=1000, t278=1000)

    def refused():
        with pytest.raises(ImageTooLarge, match="bytes"):
            read(data, "minmax")

    assert peak_bytes(refused) < 2_000_000


@pytest.mark.parametrize("compress", [(deflate, 8), (lzw, 5)])
def test_a_decompression_bomb_gives_no_more_than_the_pixels(compress):
    function, number = compress
    data = one(np.zeros((20, 30, 3), np.uint16), compress=(lambda piece: function(piece * 2_000), number))  # 7 MB

    assert peak_bytes(lambda: read(data)) < 2 * len(data) + 3_000_000
    assert read(data).size == (20, 30)


@pytest.mark.parametrize("compress", [None, (deflate, 8), (lzw, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_file_that_is_cut_off_anywhere_is_refused(compress, dtype):
    data = one(gradient(20, 30).astype(dtype), compress=compress, rows=4)

    for length in range(5, len(data) - 5, 11):
        with pytest.raises(ServiceError):
            read(data[:length])


def test_thousands_of_strips_are_read_in_time():
    image = gradient(2000, 20).astype(np.uint16) * 257
    data = one(image, rows=1, compress=(deflate, 8))

    started = time.process_time()
    read(data)

    assert time.process_time() - started < 2.0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_give_an_image_or_a_refusal(data):
    layout = data.draw(
        st.sampled_from([{}, {"tile": 16}, {"planar": 2, "rows": 3}, {"compress": (lzw, 5), "predictor": 2}])
    )
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    file = bytearray(one(gradient(9, 12).astype(dtype), big=data.draw(st.booleans()), **layout))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(4, len(file) - 1))] = data.draw(st.integers(0, 255))

    try:
        found = read(bytes(file), data.draw(st.sampled_from(["auto", "minmax", "percentile", "full"])))
    except ServiceError:
        return

    assert found.pixels.mode == "RGB"
    assert found.size == (found.pixels.height, found.pixels.width)
