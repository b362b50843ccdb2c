"""PNG: only the chunks that give the pixels count; colour keys and first frames are those of the standard."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sam.png_files import animation, chunk, frame_control, frame_data, pixels, png
from sam.sample_values import decode_array, gradient

from service.errors import ImageTooLarge, InvalidRequest, UndecodableImage
from service.sam.decoded_image import ReadOptions
from service.sam.images import decode_image

MAX_PIXELS = 1_000_000
IMAGE = gradient(24, 32)
RED, GREEN, BLUE = (np.full((24, 32, 3), colour, np.uint8) for colour in ((200, 10, 10), (10, 200, 10), (10, 10, 200)))


def decoded(data):
    return decode_array(data, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iCCP", b"p"),
        chunk(b"tEXt", b"c\0x", checksum=0),
        chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(70 << 20))),
        chunk(b"pHYs", b"\0\0"),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"sRGB"),
        chunk(b"iTXt"),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", b"\0"),
        chunk(b"tRNS", b"\0\0"),
        chunk(b"eXIf", b"\xff" * 20),
        chunk(b"prVt", b"abc", checksum=5),
    ],
    ids=lambda content: content[4:8].decode(),
)
def test_metadata_does_not_refuse_an_intact_image(before):
    assert np.array_equal(decoded(png(IMAGE, before=before)), IMAGE)
    assert np.array_equal(decoded(png(IMAGE, after=before)), IMAGE)


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_a_chunk_that_matters_is_refused(kind):
    data = bytearray(png(IMAGE, before=chunk(b"PLTE", bytes(6))))
    at = data.index(kind)
    data[at + 4 + struct.unpack_from(">I", data, at - 4)[0]] ^= 1

    with pytest.raises(UndecodableImage, match=f"checksum of the chunk {kind.decode()}"):
        decoded(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        png(IMAGE, before=chunk(b"ABCD", b"x")),
        png(IMAGE, data=b""),
        png(IMAGE, data=chunk(b"IDAT", pixels(IMAGE)[:40]) + chunk(b"tEXt") + chunk(b"IDAT", pixels(IMAGE)[40:])),
        png(IMAGE)[:8] + png(IMAGE)[33:],
    ],
    ids=["unknown chunk that matters", "no pixels", "interrupted pixels", "no header"],
)
def test_a_file_that_browsers_do_not_show_is_refused(data):
    with pytest.raises(UndecodableImage):
        decoded(data)


@given(st.integers(1, 2000))
def test_pixels_may_be_cut_into_chunks_of_any_size(size):
    content = pixels(IMAGE)

    data = b"".join(chunk(b"IDAT", content[at : at + size]) for at in range(0, len(content), size))

    assert np.array_equal(decoded(png(IMAGE, data=chunk(b"IDAT") + data)), IMAGE)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_colour_key_is_transparent(depth):
    largest = (1 << depth) - 1
    samples = np.random.default_rng(depth).integers(0, largest + 1, (300, 40))
    key = int(samples[0, 0])
    samples[0, 1] = key ^ 1  # differs in the last bit only
    # Bits above the depth do not count.
    content = struct.pack(">H", key | (0xFFFF & ~largest))
    grey = np.round(samples * 255 / largest)
    expected = np.where(samples == key, 255, grey)

    found = decoded(png(samples, depth=depth, before=chunk(b"tRNS", content)))

    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_colour_key_is_transparent(depth):
    samples = np.random.default_rng(depth).integers(0, 1 << depth, (300, 40, 3))
    samples[::2, ::3] = key = samples[0, 0].copy()
    samples[1, 1] = key + np.array((0, 0, 1 if key[2] % 256 < 255 else -1))  # differs in the last bits only
    expected = samples >> (depth - 8)
    expected[(samples == key).all(axis=2)] = 255

    found = decoded(png(samples, depth=depth, before=chunk(b"tRNS", struct.pack(">3H", *key))))

    assert np.array_equal(found, expected)


@pytest.mark.parametrize("levels", ["auto", "full", "minmax", "percentile"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_dark_samples_of_16_bits_are_stretched(levels, channels):
    rng = np.random.default_rng(channels)
    samples = rng.integers(1000, 4000, (300, 40, channels))
    has_alpha = channels in {2, 4}
    if has_alpha:
        samples[..., -1] = 65535
        samples[:9, :, -1] = 0
    colours = samples[..., : channels - has_alpha]
    black, white = {
        "auto": (colours.min(), colours.max()),
        "full": (0, 65535),
        "minmax": (colours.min(), colours.max()),
        "percentile": tuple(np.percentile(colours, (2, 98))),
    }[levels]
    expected = np.clip((colours - black) * 255 / (white - black), 0, 255)
    if has_alpha:
        expected[:9] = 255

    found = decode_image(
        png(samples if channels > 1 else samples[..., 0], depth=16),
        max_pixels=MAX_PIXELS,
        options=ReadOptions(levels=levels),
    )

    assert found.levels == {"auto": "minmax"}.get(levels, levels)
    assert np.abs(np.asarray(found.pixels) - expected).max() <= 1


@pytest.mark.parametrize("bands", [(3, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("depth", [8, 16])
def test_bands_are_chosen(depth, bands):
    samples = np.random.default_rng(depth).integers(0, 1 << depth, (20, 30, 3))
    samples = samples // 8 if depth == 16 else samples  # dark, so that 16 bits are read in full

    found = decode_image(png(samples, depth=depth), max_pixels=MAX_PIXELS, options=ReadOptions("full", bands))

    expected = samples[..., [band - 1 for band in bands]] >> (depth - 8)
    assert np.array_equal(np.asarray(found.pixels), expected)
    with pytest.raises(InvalidRequest, match="band"):
        decode_image(png(samples, depth=depth), max_pixels=MAX_PIXELS, options=ReadOptions("full", (1, 2, 4)))


def test_a_transposed_image_keeps_its_colour_key():
    samples = np.arange(12).reshape(3, 4) % 4

    found = decoded(png(samples, depth=2, before=chunk(b"tRNS", b"\0\1") + chunk(b"eXIf", EXIF_OF_6)))

    assert found.shape == (4, 3, 3)
    assert np.array_equal(found[..., 0], np.rot90(np.array([0, 255, 170, 255])[samples], -1))


EXIF_OF_6 = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"


def test_an_animation_gives_its_first_frame_not_the_image_for_other_readers():
    after = frame_control(0, (24, 32)) + frame_data(1, GREEN) + frame_control(2, (24, 32)) + frame_data(3, BLUE)

    assert np.array_equal(decoded(png(RED, before=animation(2), after=after)), GREEN)


def test_the_first_frame_may_be_the_image_for_other_readers():
    before = animation(2) + frame_control(0, (24, 32))

    found = decoded(png(RED, before=before, after=frame_control(1, (24, 32)) + frame_data(2, GREEN)))

    assert np.array_equal(found, RED)


def test_a_small_first_frame_lies_on_white():
    content = pixels(BLUE[:4, :6])
    pieces = [
        chunk(b"fdAT", struct.pack(">I", 1 + n) + content[n * 9 : n * 9 + 9]) for n in range(len(content) // 9 + 1)
    ]
    after = frame_control(0, (4, 6), (3, 2)) + chunk(b"tEXt", b"a\0b") + b"".join(pieces)
    expected = np.full((24, 32, 3), 255, np.uint8)
    expected[2:6, 3:9] = BLUE[0, 0]

    assert np.array_equal(decoded(png(RED, before=animation(1), after=after)), expected)


@pytest.mark.parametrize("before", [b"", animation(0)], ids=["not announced", "no frames"])
def test_frames_that_are_not_announced_do_not_count(before):
    after = animation(1) + frame_control(0, (24, 32)) + frame_data(1, GREEN)

    assert np.array_equal(decoded(png(RED, before=before, after=after)), RED)


@pytest.mark.parametrize(
    "after",
    [
        b"",
        frame_control(0, (24, 32)),
        frame_control(0, (25, 32)) + frame_data(1, GREEN),
        frame_control(0, (24, 32), (1, 0)) + frame_data(1, GREEN),
        frame_control(0, (0, 32)) + frame_data(1, GREEN),
        frame_control(1, (24, 32)) + frame_data(2, GREEN),
        frame_control(0, (24, 32)) + frame_data(2, GREEN),
        frame_data(0, GREEN),
        chunk(b"fcTL", b"\0\0\0\0") + frame_data(1, GREEN),
        frame_control(0, (2**31, 2**31)) + frame_data(1, GREEN),
    ],
    ids=["none", "no data", "too high", "outside", "empty", "late", "gap", "no control", "short", "huge"],
)
def test_an_animation_without_a_first_frame_is_refused(after):
    with pytest.raises(UndecodableImage, match="first frame"):
        decoded(png(RED, before=animation(1), after=after))


def test_the_size_is_checked_before_the_pixels():
    data = bytearray(png(IMAGE))
    struct.pack_into(">II", data, 16, 40_000, 30_000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))

    with pytest.raises(ImageTooLarge, match="40000 x 30000"):
        decoded(bytes(data))
