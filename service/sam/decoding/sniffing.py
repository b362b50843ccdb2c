"""The format of an uploaded file, by its first bytes."""

from typing import Final

from service.errors import UndecodableImage, UnsupportedImage

SUPPORTED: Final = "Supported are JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and, where the service has its extra, HEIC."

_SIGNATURES: Final = (
    ("JPEG", (b"\xff\xd8\xff",)),
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("GIF", (b"GIF87a", b"GIF89a")),
    ("BMP", (b"BM",)),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
# Brands of the file type box. `mif1` and `msf1` say only that the file is one of the two.
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_HEIC_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_EITHER_BRANDS: Final = {b"mif1", b"msf1", b"mif2", b"miaf", b"MiHE", b"MiHB", b"MiHA", b"MiAF"}
_MAX_BRANDS = 64


def sniff(data: bytes) -> str:
    """Return Pillow's name of the format: JPEG, PNG, GIF, BMP, TIFF, WEBP, AVIF or HEIF.

    Raises:
        UndecodableImage: There are no bytes.
        UnsupportedImage: The format is another.
    """
    if not data:
        raise UndecodableImage("The image has 0 bytes; send a file.")
    for file_format, signatures in _SIGNATURES:
        if data.startswith(signatures):
            return file_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _sniff_brands(data)
    raise UnsupportedImage(f"The bytes are not an image in a supported format. {SUPPORTED}")


def _sniff_brands(data: bytes) -> str:
    end = min(len(data), int.from_bytes(data[:4], "big"), 16 + 4 * _MAX_BRANDS)
    major, *others = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    for brand in (major, *(others if major in _EITHER_BRANDS else ())):
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand in _HEIC_BRANDS:
            return "HEIF"
    raise UnsupportedImage(f"The file is a video or a rare kind of HEIF image. {SUPPORTED}")
