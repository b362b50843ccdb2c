"""AVIF and HEIC: the boxes decide about orientation and crop, and hostile files are refused before decoding."""

import io
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sam.heif_files import aperture, box, coded_image, extent, full_box, grid, heif, mirror, rotation, still
from sam.png_files import exif
from sam.sample_values import decode_array, encoded, gradient

from service.errors import ImageTooLarge, UndecodableImage, UnsupportedImage
from service.sam.images import decode_image

MAX_PIXELS = 200_000
IMAGE = gradient(64, 96)
LOSSY = {"quality": 100, "subsampling": "4:4:4"}
CODED = coded_image(encoded(IMAGE, "AVIF", **LOSSY))
SCENE = (Path(__file__).parent / "cases" / "scene.heic").read_bytes()
SIZE = IMAGE.shape[:2]
# Quarters anticlockwise and axis of the mirror, by the EXIF orientation that they equal.
TURNED = {
    2: [mirror(1)], 3: [rotation(2)], 4: [mirror(0)], 5: [rotation(1), mirror(0)], 6: [rotation(3)],
    7: [rotation(1), mirror(1)], 8: [rotation(1)],
}  # fmt: skip


def turned(image, orientation):
    """Return an array as a viewer shows it, by Pillow's rule for EXIF."""
    methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    return np.asarray(Image.fromarray(image).transpose(Image.Transpose(methods[orientation])))


def decoded(data):
    return decode_image(data, max_pixels=MAX_PIXELS)


def distance(image, expected):
    found = np.asarray(image.pixels).astype(int)
    assert found.shape == expected.shape
    return np.abs(found - expected).max()


@pytest.mark.parametrize("orientation", TURNED)
def test_the_boxes_turn_an_avif(orientation):
    found = decoded(still(CODED, *TURNED[orientation]))

    assert found.orientation == orientation
    assert found.size == found.pixels.size[::-1]
    assert distance(found, turned(IMAGE, orientation)) <= 4


def test_exif_does_not_turn_an_avif():
    block = struct.pack(">I", 0) + exif(6)
    items = [(CODED.kind, [extent(SIZE), CODED.configuration], CODED.data), (b"Exif", [], block)]

    found = decoded(heif(items))

    assert found.orientation == 1
    assert distance(found, IMAGE) <= 4


def test_a_damaged_exif_block_does_not_spoil_an_avif():
    items = [(CODED.kind, [extent(SIZE), CODED.configuration], CODED.data), (b"Exif", [], b"\0\0\0\0zz")]

    assert distance(decoded(heif(items)), IMAGE) <= 4


def test_an_avif_is_cropped_where_browsers_crop_it():
    from_origin = decoded(still(CODED, aperture(30, 20, 0, 0, SIZE), rotation(1)))
    inside = decoded(still(CODED, aperture(30, 20, 5, 6, SIZE)))
    outside = decoded(still(CODED, aperture(97, 20, 0, 0, SIZE)))

    assert distance(from_origin, turned(IMAGE[:20, :30], 8)) <= 4
    assert from_origin.size == (30, 20)
    assert distance(inside, IMAGE) <= 4
    assert distance(outside, IMAGE) <= 4


def test_a_grid_of_images_is_one_image():
    tile = (CODED.kind, [extent(SIZE), CODED.configuration], CODED.data)
    items = [(b"grid", [extent((64, 180)), rotation(2)], grid(2, 1, (64, 180))), tile, tile]

    found = decoded(heif(items, references=[(1, [2, 3])]))

    assert distance(found, turned(np.hstack((IMAGE, IMAGE))[:, :180], 3)) <= 4


def test_transparent_parts_of_an_avif_show_white():
    alpha = np.linspace(0, 255, 64 * 96).reshape(64, 96).astype(np.uint8)
    share = alpha[..., None] / 255.0

    found = decoded(encoded(np.dstack((IMAGE, alpha)), "AVIF", **LOSSY))

    assert distance(found, np.round(IMAGE * share + 255 * (1 - share))) <= 8


def test_an_avif_sequence_gives_its_first_frame():
    frames = [Image.fromarray(IMAGE[::-1].copy())] * 2
    data = encoded(Image.fromarray(IMAGE), "AVIF", save_all=True, append_images=frames, **LOSSY)
    assert data[8:12] == b"avis"

    assert distance(decoded(data), IMAGE) <= 6


def test_a_size_is_refused_from_the_boxes():
    with pytest.raises(ImageTooLarge, match="40000 x 30000"):
        decoded(still(CODED, size=(30_000, 40_000)))


def large(codec_size):
    """Return a coded image of one colour: a few hundred bytes."""
    return coded_image(encoded(Image.new("RGB", codec_size, (10, 20, 30)), "AVIF", quality=10, speed=10))


def test_a_coded_image_larger_than_its_boxes_say_is_refused_before_decoding():
    hostile = still(large((8000, 6000)), size=(8, 16))
    assert len(hostile) < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(UndecodableImage, match="more pixels"):
        decoded(hostile)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB; decoding takes 70 MiB


def test_frames_that_replace_their_size_are_refused():
    # The first frame of a sequence has the long header, which may hold a size of its own.
    frames = [Image.fromarray(IMAGE[::-1].copy())]
    coded = coded_image(encoded(Image.fromarray(IMAGE), "AVIF", save_all=True, append_images=frames, **LOSSY))
    assert distance(decoded(still(coded)), IMAGE) <= 6
    data = bytearray(coded.data)
    at = data.index(b"\x32")  # header of a unit with a frame, of one or two bytes of length
    start = at + (3 if data[at + 1] > 127 else 2)
    refused = []
    for bit in range(16):
        changed = bytearray(data)
        changed[start + bit // 8] ^= 128 >> bit % 8
        try:
            decoded(still(coded.__class__(coded.kind, coded.configuration, coded.size, bytes(changed))))
        except UndecodableImage as error:
            refused.append(error.detail if hasattr(error, "detail") else str(error))

    assert any("like a video" in text for text in refused)


def many_frames(count):
    unit = CODED.data
    return still(CODED.__class__(CODED.kind, CODED.configuration, CODED.size, unit * count))


@pytest.mark.parametrize(
    "data",
    [
        many_frames(17),
        still(CODED.__class__(CODED.kind, CODED.configuration, CODED.size, b"\x12\0" * 2000)),
        still(CODED.__class__(CODED.kind, CODED.configuration, CODED.size, b"")),
        still(CODED.__class__(CODED.kind, CODED.configuration, CODED.size, CODED.data[:5])),
        heif([(b"grid", [extent(SIZE)], grid(1, 1, SIZE))], references=[(1, [1])]),
        heif([(b"grid", [extent(SIZE)], grid(1, 1, SIZE))]),
        heif([(b"iovl", [extent(SIZE)], b"")]),
        heif([(b"unci", [extent(SIZE)], bytes(64 * 96 * 3))]),
        heif([(CODED.kind, [CODED.configuration], CODED.data)]),
        heif([(CODED.kind, [extent(SIZE), CODED.configuration, extent((9000, 9000))], CODED.data)]),
        still(CODED) + still(CODED)[28:],
        box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf"),
        box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + full_box(b"meta", box(b"free") * 10_000),
        box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + full_box(b"meta", b"\0\0\0\1free" + b"\xff" * 8),
    ],
    ids=[
        "many frames", "many units", "no data", "cut off", "grid of itself", "grid of nothing", "overlay",
        "uncompressed", "no size", "larger property", "two sets of boxes", "no boxes", "many boxes", "endless box",
    ],
)  # fmt: skip
def test_hostile_boxes_are_refused(data):
    with pytest.raises(UndecodableImage):
        decoded(data)


@pytest.mark.parametrize("kind", ["locations", "associations", "extents"])
def test_long_lists_are_refused_soon(kind):
    many = 2_000_000
    lists = {
        "locations": (b"iloc", struct.pack(">H", 0xFFFF) + bytes(6) * many, 0),
        "associations": (b"ipma", struct.pack(">I", many) + b"\0\1\0" * many, 0),
        "extents": (b"iloc", struct.pack(">H", 1) + struct.pack(">HHH", 1, 0, 0xFFFF) + bytes(8) * 0xFFFF, 0x4400),
    }
    name, content, sizes = lists[kind]
    data = still(CODED)
    box_of = data.index(name) - 4
    start = struct.pack(">H", sizes) if name == b"iloc" else b""
    longer = full_box(name, start + content)
    end = box_of + int.from_bytes(data[box_of : box_of + 4], "big")
    changed = bytearray(data[:box_of] + longer + data[end:])
    for outer in (b"meta", *((b"iprp",) if name == b"ipma" else ())):
        at = changed.index(outer) - 4
        size = int.from_bytes(changed[at : at + 4], "big") + len(longer) - (end - box_of)
        changed[at : at + 4] = struct.pack(">I", size)
    began = time.process_time()

    with pytest.raises(UndecodableImage, match="pieces"):
        decoded(bytes(changed))

    assert time.process_time() - began < 0.5


def test_pieces_that_overlap_are_refused_before_they_are_joined():
    extents = 1000
    data = still(CODED, mirror(1)) + bytes(1 << 20)
    start, end = data.index(b"iloc") - 4, data.index(b"mdat") - 4
    pieces = struct.pack(">HHH", 1, 0, extents) + struct.pack(">II", 0, len(data)) * extents
    longer = full_box(b"iloc", b"\x44\0" + struct.pack(">H", 1) + pieces)
    changed = bytearray(data[:start] + longer + data[end:])
    meta = changed.index(b"meta") - 4
    size = int.from_bytes(changed[meta : meta + 4], "big") + len(longer) - (end - start)
    changed[meta : meta + 4] = struct.pack(">I", size)

    with pytest.raises(UndecodableImage, match="overlap"):
        decoded(bytes(changed))


def sequence_header():
    """Return the unit of AV1 with the sequence header of an image, which is the first or follows a delimiter."""
    data = CODED.data[2:] if CODED.data[:2] == b"\x12\0" else CODED.data
    assert data[0] == 0x0A
    return data[: 2 + data[1]]


@pytest.mark.parametrize(("items", "headers"), [(1, 255), (1500, 1)])
def test_many_headers_are_refused_before_they_are_read(items, headers):
    image = (CODED.kind, [extent(SIZE)], sequence_header() * headers)
    others = [(image[0], [], image[2])] * (items - 1)

    with pytest.raises(UndecodableImage, match="coded"):
        decoded(heif([image, *others]))


def test_a_grid_with_more_pixels_than_the_limit_is_refused():
    tile = (CODED.kind, [extent(SIZE), CODED.configuration], CODED.data)
    items = [(b"grid", [extent((64, 96))], grid(16, 16, (64, 96))), tile]

    with pytest.raises(UndecodableImage, match="more pixels"):
        decode_image(heif(items, references=[(1, [2] * 256)]), max_pixels=7000)


def test_a_damaged_file_is_an_image_or_a_refusal():
    rng = np.random.default_rng(0)
    for seed in (still(CODED, rotation(1)), SCENE):
        for _ in range(300):
            data = bytearray(seed)
            for _ in range(rng.integers(1, 4)):
                data[rng.integers(0, min(len(data), 400))] = rng.integers(0, 256)
            try:
                image = decode_array(bytes(data), max_pixels=MAX_PIXELS)
            except (UndecodableImage, UnsupportedImage, ImageTooLarge):
                continue
            assert image.shape[0] * image.shape[1] <= MAX_PIXELS


def test_the_refusal_of_a_heic_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)

    with pytest.raises(UnsupportedImage, match="extra `heif`"):
        decoded(SCENE)


class TestHeic:
    """With the extra `heif`."""

    @pytest.fixture(autouse=True)
    def extra(self):
        self.pillow_heif = pytest.importorskip("pillow_heif")

    def test_a_heic_is_read(self):
        found = decoded(SCENE)

        assert found.size == (200, 320)
        assert found.orientation == 1
        assert tuple(np.asarray(found.pixels)[0, -1]) == (70, 110, 60)

    @pytest.mark.parametrize("orientation", TURNED)
    def test_the_boxes_turn_a_heic(self, orientation):
        plain = np.asarray(decoded(SCENE).pixels)

        found = decoded(still(coded_image(SCENE), *TURNED[orientation], brand=b"heic"))

        assert found.orientation == orientation
        assert np.array_equal(np.asarray(found.pixels), turned(plain, orientation))

    @pytest.mark.parametrize("options", [{}, {"tile_size": 64}, {"quality": 95, "chroma": "444"}])
    def test_encoded_images_are_read(self, options):
        found = decoded(self.encoded(Image.fromarray(gradient(150, 200)), **options))

        assert distance(found, gradient(150, 200)) <= 20

    def test_grey_of_more_than_8_bits_and_opacity_are_read(self):
        grey = gradient(64, 96)[..., 0]

        from_grey = decoded(self.encoded(Image.fromarray(grey.astype(np.uint16) * 257)))
        from_transparent = decoded(self.encoded(Image.fromarray(np.dstack((IMAGE, np.zeros_like(grey))))))

        assert distance(from_grey, np.repeat(grey[..., None], 3, axis=2)) <= 12
        assert np.asarray(from_transparent.pixels).min() >= 250

    def test_a_coded_image_larger_than_its_boxes_say_is_refused(self):
        large = coded_image(self.encoded(Image.new("RGB", (3000, 2000))))

        with pytest.raises(UndecodableImage, match="more pixels"):
            decoded(still(large, size=(8, 16), brand=b"heic"))

    def test_a_size_is_refused_from_the_boxes(self):
        with pytest.raises(ImageTooLarge, match="3000 x 2000"):
            decoded(self.encoded(Image.new("RGB", (3000, 2000))))

    def encoded(self, image, **options):
        file = io.BytesIO()
        self.pillow_heif.from_pillow(image).save(file, **options)
        return file.getvalue()
