"""Hostile inputs: images, bodies and prompts, each with the name of its kind."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from sam.sample_values import files_of_every_kind
from support.noise_images import as_file, noise_image

MIB = 1 << 20
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Input:
    """A request with the name of its kind."""

    kind: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def every_input(image_hash: str, *, mutations: int) -> Iterator[Input]:
    """Yield all inputs: image files for /embed, all others for /segment."""
    for kind, upload in [*bombs(), *polyglots(), *metadata()]:
        yield Input(kind, "/embed", upload)
    for upload in mutated(mutations, seed=1):
        yield Input("damaged images of every format", "/embed", upload)
    yield from bodies(image_hash)
    yield from prompts(image_hash)
    yield from wrong_types()


def mutated(count: int, *, seed: int) -> Iterator[bytes]:
    """Yield image files with changed, removed and repeated bytes."""
    draw = np.random.default_rng(seed)
    whole = files_of_every_kind()
    for number in range(count):
        data = bytearray(whole[number % len(whole)])
        for _ in range(draw.integers(1, 8)):
            within = min(len(data), 300) if draw.random() < 0.7 else len(data)
            data[draw.integers(0, within)] = draw.integers(0, 256)
        if draw.random() < 0.4:
            cut, again = sorted(draw.integers(0, len(data), 2))
            data = data[:again] + data[cut:]
        yield bytes(data)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield small files that decode to large images or claim to."""
    for mode, file_format, options in (
        ("1", "PNG", {}), ("P", "GIF", {}), ("L", "TIFF", {"compression": "tiff_lzw"}),
        ("RGBA", "PNG", {"compress_level": 1}), ("RGB", "WEBP", {"lossless": True, "method": 0}),
        ("RGBA", "AVIF", {"speed": 10}),
    ):  # fmt: skip
        yield f"50 megapixels in few bytes, {file_format}", _file(Image.new(mode, (8192, 6144)), file_format, **options)
    yield "200 megapixels, PNG", _file(Image.new("1", (20_000, 10_000)), "PNG")
    yield "claims of 4 gigapixels, PNG", png(65_535, 65_535, zlib.compress(bytes(1000)))
    yield "claims of 268 megapixels, WebP", webp_canvas(16_384, 16_384)
    frames = [Image.new("L", (64, 64), level % 256) for level in range(5000)]
    yield "GIF of 5000 frames", _file(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    plain = png(8, 8, zlib.compress(bytes(25 * 8)))
    yield "PNG of a million chunks", plain[:33] + chunk(b"abCd", b"") * 1_000_000 + plain[33:]
    gif = _file(Image.new("P", (8, 8)), "GIF")
    at = 13 + (3 << (gif[10] & 7) + 1)
    yield "GIF of millions of blocks", gif[:at] + b"!\xfe\1a\0" * 4_000_000 + gif[at:]
    progressive = as_file(noise_image((1000, 1000)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield "JPEG of 5000 scans", progressive[:-2] + scan * 5000 + progressive[-2:]


def metadata() -> Iterator[tuple[str, bytes]]:
    """Yield images with invalid EXIF, ICC and text metadata."""
    bomb = zlib.compress(bytes(100 * MIB), 9)
    plain = png(8, 8, zlib.compress(bytes(25 * 8)))
    for name, content in (
        (b"zTXt", b"a\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb),
        (b"eXIf", exif_of_many_tags(4 * MIB)),
    ):  # fmt: skip
        yield f"PNG whose {name.decode()} swells", plain[:33] + chunk(name, content) + plain[33:]
    small = Image.new("RGB", (64, 48), (200, 100, 50))
    yield (
        "EXIF that points into itself",
        _file(small, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0"),
    )
    yield "EXIF of noise", _file(small, "JPEG", exif=b"Exif\0\0" + np.random.default_rng(0).bytes(60_000))
    yield "ICC profile of noise", _file(small, "JPEG", icc_profile=np.random.default_rng(1).bytes(500_000))
    yield "ICC profile of noise, WebP", _file(small, "WEBP", icc_profile=np.random.default_rng(2).bytes(500_000))
    oriented = Image.Exif()
    oriented[0x0112] = 65_535
    yield "EXIF orientation 65535", _file(small, "JPEG", exif=oriented)


def polyglots() -> Iterator[tuple[str, bytes]]:
    """Yield files of two formats at once, and of other formats than they claim."""
    jpeg, gif = as_file(noise_image((48, 64)), "JPEG"), _file(Image.new("P", (64, 48), 7), "GIF")
    yield "GIF that is a script", b"GIF89a=1;/*" + gif[11:] + b"*/;alert(1)"
    yield "JPEG with a ZIP behind it", jpeg + b"PK\3\4" + bytes(200)
    yield "JPEG with HTML in a comment", jpeg[:2] + b"\xff\xfe\x00\x20<script>alert(1)</script>    " + jpeg[2:]
    yield "PDF with a JPEG in it", b"%PDF-1.7\n" + jpeg
    yield "SVG that fetches", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    yield "MVG that fetches", b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x'\npop graphic-context"


def bodies(image_hash: str) -> Iterator[Input]:
    """Yield bodies for /segment that are not JSON, or unusual JSON."""

    def raw(kind: str, text: bytes) -> Input:
        return Input(kind, "/segment", text, {"Content-Type": JSON})

    ends = f'{{"image_hash":"{image_hash}","prompts":[{{"points":[{{"x":'.encode(), b',"y":1}]}]}'
    for number in (
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e308",
        "9" * 4000,
        "1" + "0" * 300,
        "5e-324",
        "0x10",
        "+1",
    ):
        yield raw("numbers that are none, or too large", number.encode().join(ends))
    yield raw("10^6 points", ends[0] + b"1" + b',"y":1},{"x":1' * 500_000 + ends[1])
    for opening in (b"[", b'{"a":', b'{"prompts":['):
        yield raw("deep JSON", opening * (MIB // len(opening)))
        yield raw("deep JSON", ends[0] + opening * 100_000 + ends[1])
    for text in (
        b"\xff\xfe\0{",
        b'{"image_hash":"\xc3\x28"}',
        b'{"\xed\xa0\x80":1}',
        b"\xf8\x88\x80\x80\x80",
        b"\0" * 1000,
    ):
        yield raw("invalid UTF-8", text)
    yield raw("the same member a hundred thousand times", b"{" + b'"a":1,' * 100_000 + b'"b":1}')


def prompts(image_hash: str) -> Iterator[Input]:
    """Yield well-formed JSON with unusual or too large values."""

    def asked(kind: str, prompt: object, **more: object) -> Input:
        body = json.dumps({"image_hash": image_hash, "prompts": prompt, **more})
        return Input(kind, "/segment", body.encode(), {"Content-Type": JSON})

    for name in ("__proto__", "\0", "a" * MIB, "image_hash\0"):
        yield asked("strange members", [{"points": [{"x": 1, "y": 1}]}], **{name: 1})
    yield asked("10^6 points", [{"points": [{"x": 1, "y": 1}] * 200_000}])
    yield asked("10^5 prompts", [{"points": [{"x": 1, "y": 1}]}] * 100_000)
    logits = np.zeros((256, 256), "<f2")
    for value in (np.nan, np.inf, -np.inf, 65504.0, -65504.0):
        logits[:] = value
        yield asked("mask logits at the ends", [{"mask_logits": _base64(logits.tobytes())}])
    for size in (0, 1, 131_071, 131_073, 5 * MIB):
        yield asked("mask logits of another length", [{"mask_logits": _base64(bytes(size))}])
    for box in ([0, 0, 0, 0], [5, 5, 5, 5], [-1e6, -1e6, 1e6, 1e6], [1e-9, 0, 2e-9, 1], [639, 479, 1e6, 1e6]):
        yield asked("boxes at the ends", [{"box": box}])
    for picked in ("rle", "png", "polygon", "logits", "none"):
        everything = [{"points": [{"x": 1 + n, "y": 1}] * 64} for n in range(64)]
        yield asked("the largest allowed request", everything, multimask=4, format=picked)


def wrong_types() -> Iterator[Input]:
    """Yield bodies with a wrong content type."""
    jpeg = as_file(noise_image((48, 64)), "JPEG")
    for kind in (
        "text/html", JSON, "multipart/form-data", "multipart/form-data; boundary=", "image/svg+xml", "video/mp4",
        "\xff",
        "multipart/form-data; boundary=" + "b" * 5000, "multipart/mixed; boundary=x", "a" * 5000, ";;;", "image/",
    ):  # fmt: skip
        yield Input("wrong content types", "/embed", jpeg, {"Content-Type": kind})
    form = {"Content-Type": "multipart/form-data; boundary=seam"}
    yield Input("multipart of nothing but parts", "/embed", b"--seam\r\n\r\n\r\n" * 500_000, form)
    yield Input("multipart of nothing but dashes", "/embed", b"-" * (8 * MIB), form)
    yield Input("multipart of nothing but line ends", "/embed", b"\r\n--sea" * MIB, form)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes) -> bytes:
    """Return a PNG whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def webp_canvas(width: int, height: int) -> bytes:
    """Return an animated WebP that claims a canvas size."""
    canvas = struct.pack("<I", 2) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + b"\0" * 6
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def exif_of_many_tags(size: int) -> bytes:
    """Return an EXIF block with 5000 tags, each of which claims nearly all bytes of the block as its value."""
    tags = b"".join(struct.pack("<HHII", 1000 + number, 1, size - 100, 0) for number in range(5000))
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + tags + bytes(4)
    return block + bytes(size - len(block))


def _file(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
