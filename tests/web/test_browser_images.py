"""Images as a real browser shows them: the service reads the same pixels, and the page notices where it does not."""

import base64
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sam.heif_files import aperture, coded_image, extent, grid, heif, mirror, rotation, still
from sam.jpeg_files import segment, with_segments
from sam.png_files import animation, chunk, exif, frame_control, frame_data, pixels, png
from sam.sample_values import encoded, gradient
from support.service_client import open_client

from service.errors import UndecodableImage
from service.sam.decoded_image import ReadOptions
from service.sam.images import decode_image
from service.sam.transforms import Size

MAX_PIXELS = 1_000_000
IMAGE = gradient(64, 96)
GREEN = np.full(IMAGE.shape, (10, 200, 10), np.uint8)
LOSSY = {"quality": 100, "subsampling": "4:4:4"}
JPEG = encoded(IMAGE, "JPEG", **LOSSY)
AVIF = coded_image(encoded(IMAGE, "AVIF", **LOSSY))
TILE = (AVIF.kind, [extent(AVIF.size), AVIF.configuration], AVIF.data)
RNG = np.random.default_rng(0)


def block(orientation):
    written = Image.Exif()
    written[0x0112] = orientation
    return written


def noise(depth, channels):
    shape = (20, 30, channels) if channels > 1 else (20, 30)
    return RNG.integers(0, 1 << depth, shape)


def with_key(depth, channels):
    """Return a PNG whose first pixel has the transparent colour, as some others have by chance."""
    samples = noise(depth, channels)
    key = np.atleast_1d(samples[0, 0])
    samples[5, 5] = samples[0, 0]
    return png(samples, depth=depth, before=chunk(b"tRNS", struct.pack(f">{channels}H", *key)))


def alpha():
    return np.dstack((IMAGE, np.linspace(0, 255, 64 * 96).reshape(64, 96).astype(np.uint8)))


def palette(transparency):
    content = np.repeat(np.arange(4), 24).reshape(8, 12)
    data = bytearray(png(content, before=chunk(b"PLTE", bytes(range(0, 240, 20))) + chunk(b"tRNS", transparency)))
    data[25] = 3
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


FIRST_COLOUR = struct.pack(">3H", *IMAGE[0, 0].tolist())

JPEGS = {
    **{f"EXIF {n}": with_segments(JPEG, segment(0xE1, b"Exif\0\0" + exif(n))) for n in range(10)},
    "two EXIF": with_segments(JPEG, *[segment(0xE1, b"Exif\0\0" + exif(n)) for n in (6, 3)]),
    "broken EXIF": with_segments(JPEG, segment(0xE1, b"Exif\0\0zz"), segment(0xE1, b"Exif\0\0" + exif(3))),
    "LONG": with_segments(JPEG, segment(0xE1, b"Exif\0\0" + exif(6, kind=4))),
    "big-endian": with_segments(JPEG, segment(0xE1, b"Exif\0\0" + exif(8, order=">"))),
    "XMP": with_segments(
        JPEG, segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"></x:xmpmeta>')
    ),
    "progressive": encoded(IMAGE, "JPEG", progressive=True, exif=block(5), **LOSSY),
}
PNGS = {
    **{f"eXIf {n}": png(IMAGE, before=chunk(b"eXIf", exif(n))) for n in range(10)},
    "eXIf behind the pixels": png(IMAGE, after=chunk(b"eXIf", exif(6))),
    "eXIf with a wrong checksum": png(IMAGE, before=chunk(b"eXIf", exif(6), checksum=1)),
    "eXIf with a prefix": png(IMAGE, before=chunk(b"eXIf", b"Exif\0\0" + exif(6))),
    "two eXIf": png(IMAGE, before=chunk(b"eXIf", exif(6)) + chunk(b"eXIf", exif(3))),
    "raw profile": png(IMAGE, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(exif(6)))),
    "large profile": png(IMAGE, before=chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 << 20)))),
    "broken text": png(IMAGE, before=chunk(b"tEXt", b"c\0x", checksum=0)),
    "short pHYs": png(IMAGE, before=chunk(b"pHYs", b"\0\0")),
    **{f"grey key of {depth} bits": with_key(depth, 1) for depth in (1, 2, 4, 8, 16)},
    **{f"colour key of {depth} bits": with_key(depth, 3) for depth in (8, 16)},
    "key with a wrong checksum": png(IMAGE, before=chunk(b"tRNS", FIRST_COLOUR, checksum=0)),
    "short key": png(IMAGE, before=chunk(b"tRNS", b"\0\0")),
    "palette": palette(b"\0\x80"),
    "alpha": encoded(alpha(), "PNG"),
    "animation with another image": png(
        IMAGE, before=animation(2), after=frame_control(0, (64, 96)) + frame_data(1, GREEN) + frame_control(2, (64, 96))
        + frame_data(3, IMAGE)
    ),
    "small first frame": png(
        IMAGE, before=animation(1), after=frame_control(0, (10, 20), (30, 40)) + frame_data(1, GREEN[:10, :20])
    ),
    "animation that begins with the image": png(
        IMAGE, before=animation(2) + frame_control(0, (64, 96)), after=frame_control(1, (64, 96)) + frame_data(2, GREEN)
    ),
    "frames that are announced late": png(
        IMAGE, after=animation(1) + frame_control(0, (64, 96)) + frame_data(1, GREEN)
    ),
}  # fmt: skip
OTHERS = {
    "EXIF in WebP": encoded(IMAGE, "WEBP", exif=block(6), lossless=True),
    "alpha in WebP": encoded(alpha(), "WEBP", lossless=True, exact=True),
    "GIF": encoded(Image.fromarray(IMAGE).quantize(16), "GIF"),
    "BMP": encoded(IMAGE, "BMP"),
    **{f"AVIF {n}": encoded(IMAGE, "AVIF", exif=block(n), **LOSSY) for n in range(1, 9)},
    "irot": still(AVIF, rotation(1)),
    "imir": still(AVIF, mirror(0)),
    "irot and imir": still(AVIF, rotation(3), mirror(1)),
    "EXIF in AVIF": heif([TILE, (b"Exif", [], struct.pack(">I", 0) + exif(6))]),
    "crop from the corner": still(AVIF, aperture(30, 20, 0, 0, AVIF.size), rotation(1)),
    "crop inside": still(AVIF, aperture(30, 20, 4, 6, AVIF.size)),
    "grid": heif(
        [(b"grid", [extent((64, 180)), rotation(1)], grid(2, 1, (64, 180))), TILE, TILE], references=[(1, [2, 3])]
    ),
    "alpha in AVIF": encoded(alpha(), "AVIF", **LOSSY),
    "AVIF sequence": encoded(
        Image.fromarray(IMAGE), "AVIF", save_all=True, append_images=[Image.fromarray(GREEN)], **LOSSY
    ),
}
SHOWN = {**JPEGS, **PNGS, **OTHERS}
NOT_SHOWN = {
    "cut off JPEG": JPEG[:-200],
    "wrong checksum of pixels": png(IMAGE, data=chunk(b"IDAT", pixels(IMAGE), checksum=1)),
    "unknown chunk that matters": png(IMAGE, before=chunk(b"ABCD")),
    "interrupted pixels": png(
        IMAGE, data=chunk(b"IDAT", pixels(IMAGE)[:50]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", pixels(IMAGE)[50:])
    ),
    "no first frame": png(IMAGE, before=animation(1)),
    "first frame outside": png(
        IMAGE, before=animation(1), after=frame_control(0, (64, 97)) + frame_data(1, GREEN)
    ),
    "first frame out of order": png(
        IMAGE, before=animation(1), after=frame_control(5, (64, 96)) + frame_data(6, GREEN)
    ),
}  # fmt: skip

# Grey levels. Decoders round differently. Chromium takes the opacity of an AVIF and the colours of a sequence for
# numbers of limited range.
TOLERANCES = {"alpha in AVIF": 21, "AVIF sequence": 20}

# Draws the image on white, and gives it as the base64 of a PNG.
SHOW = """async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes])).catch(() => null);
    if (!bitmap) return null;
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    const png = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
    return btoa(Array.from(png, (byte) => String.fromCharCode(byte)).join(""));
}"""
# For each orientation: whether the page takes the image to be shown as the service read it.
COMPARE = """async ([url, text]) => {
    const { isShownAsRead } = await import(`${url}web/playground/orientation.js`);
    const file = new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))]);
    const shown = await createImageBitmap(file);
    const { width, height } = shown;
    const answers = [];
    for (let orientation = 1; orientation <= 8; orientation++) {
        answers.push(await isShownAsRead(file, shown, { width, height, orientation }));
    }
    answers.push(await isShownAsRead(file, shown, { width: height + 1, height: width, orientation: 1 }));
    return answers;
}"""

# Browsers of the years before 2020 ignored the orientation.
OLD_BROWSER = """
    const ofThisBrowser = createImageBitmap;
    window.createImageBitmap = async (file) => {
        const image = new Image();
        image.style.imageOrientation = "none";
        image.src = URL.createObjectURL(file);
        await image.decode();
        const canvas = document.createElement("canvas");
        canvas.style.imageOrientation = "none";
        document.body.append(image, canvas);
        [canvas.width, canvas.height] = [image.offsetWidth, image.offsetHeight];
        canvas.getContext("2d").drawImage(image, 0, 0);
        image.remove();
        canvas.remove();
        return ofThisBrowser(canvas);
    };"""


@pytest.fixture(scope="module")
def page(browser, bundled_url):
    page = browser.new_page()
    page.goto(bundled_url)
    yield page
    page.close()


def shown_by(page, data):
    """Return the pixels that the browser shows on white, or None."""
    text = page.evaluate(SHOW, base64.b64encode(data).decode())
    return None if text is None else np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


@pytest.mark.parametrize("name", SHOWN)
def test_the_service_reads_what_the_browser_shows(page, name):
    shown = shown_by(page, SHOWN[name]).astype(int)
    read = decode_image(SHOWN[name], max_pixels=MAX_PIXELS, options=ReadOptions(levels="full"))

    size: Size = shown.shape[:2]
    assert read.size == size
    differences = np.abs(np.asarray(read.pixels).astype(int) - shown)
    assert differences.max() <= TOLERANCES.get(name, 6 if name in OTHERS else 3)


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_the_service_refuses_what_the_browser_does_not_show(page, name):
    assert shown_by(page, NOT_SHOWN[name]) is None

    with pytest.raises(UndecodableImage):
        decode_image(NOT_SHOWN[name], max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF"])
def test_the_page_knows_which_orientation_the_browser_applied(page, bundled_url, kind, orientation):
    image = gradient(64, 64)  # a square, whose size tells nothing
    data = encoded(image, kind, exif=block(orientation))

    *by_orientation, of_another_size = page.evaluate(COMPARE, [bundled_url, base64.b64encode(data).decode()])

    assert [number for number, is_same in enumerate(by_orientation, 1) if is_same] == [orientation]
    assert not of_another_size


def test_an_image_that_looks_the_same_in_all_orientations_is_shown_as_read(page, bundled_url):
    data = encoded(Image.new("RGB", (40, 40), (10, 90, 200)), "JPEG", exif=block(6))

    answers = page.evaluate(COMPARE, [bundled_url, base64.b64encode(data).decode()])

    assert answers[:8] == [True] * 8


def test_the_page_uploads_the_pixels_that_it_shows_where_the_service_reads_others(
    visit, bundled_url, tmp_path, next_seed
):
    playground = visit()
    playground.page.context.add_init_script(OLD_BROWSER)
    playground.visit()
    image = np.random.default_rng(next_seed).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    file = tmp_path / "turned.jpg"
    file.write_bytes(encoded(image, "JPEG", quality=50, exif=block(6)))

    playground.open_file(file)
    playground.click(0.5, 0.45)

    first, second = playground.sent("POST", "/embed")
    assert first.headers["content-type"] == "image/jpeg"
    assert second.headers["content-type"] == "image/png"
    with open_client(bundled_url) as client:
        read, uploaded = (
            client.head(f"/embed/{name}").headers
            for name in (hashlib.sha256(file.read_bytes()).hexdigest(), playground.segment_bodies()[-1]["image_hash"])
        )
    assert (read["x-image-size"], read["x-image-orientation"]) == ("240,320", "6")
    assert (uploaded["x-image-size"], uploaded["x-image-orientation"]) == ("320,240", "1")


def test_the_page_uploads_the_file_where_the_service_reads_what_it_shows(playground, tmp_path, next_seed):
    image = np.random.default_rng(next_seed).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    file = tmp_path / "turned.jpg"
    file.write_bytes(encoded(image, "JPEG", quality=50, exif=block(6)))

    playground.open_file(file)
    playground.visit()
    playground.open_file(file)  # now the service knows the image, and tells its size and orientation all the same

    (sent,) = playground.sent("POST", "/embed")
    assert sent.headers["content-type"] == "image/jpeg"
