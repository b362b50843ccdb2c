"""Finds the image files of a folder, by their names and their first bytes."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

# Endings of images. The service decides which formats it reads; HEIC and AVIF depend on how it was installed.
_HEIF_SUFFIXES: Final = frozenset((".avif", ".heic", ".heics", ".heif", ".hif"))
_JPEG_SUFFIXES: Final = frozenset((".jfif", ".jpe", ".jpeg", ".jpg", ".pjp", ".pjpeg"))
_PLAIN_SUFFIXES: Final = frozenset((".apng", ".bmp", ".dib", ".gif", ".png", ".tif", ".tiff", ".webp"))
_SUFFIXES: Final = _HEIF_SUFFIXES | _JPEG_SUFFIXES | _PLAIN_SUFFIXES
_OTHER_IMAGES: Final = {
    **dict.fromkeys(
        (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
        "a camera's raw file; export it as JPEG or TIFF",
    ),
    **dict.fromkeys((".ai", ".eps", ".pdf", ".svg", ".svgz"), "a drawing; export it as PNG"),
    **dict.fromkeys(
        (".dcm", ".exr", ".hdr", ".ico", ".j2k", ".jp2", ".jxl", ".psd", ".tga", ".xcf"),
        "an image of a format that the service does not read; save it as PNG",
    ),
}
_HEAD_BYTES: Final = 32
_BMP_HEADER_BYTES: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_HEIF_BRANDS: Final = frozenset(
    {b"avif", b"avis", b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"}
)


class SkippedFile(NamedTuple):
    """A file or folder that is not uploaded.

    Args:
        path: Path of the file or folder.
        reason: Reason, a phrase.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files of a folder and its sub-folders, each list sorted by path.

    Args:
        images: Image files.
        skipped: Files that are no images, or that cannot be read as files, and hidden or linked folders.
    """

    images: list[Path] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)


def find_images(folder: Path) -> FoundFiles:
    """Find the image files in a folder and its sub-folders.

    A file is an image if its name ends like one, or if its first bytes are those of one. Names that begin with a dot
    are skipped. So are links to folders, which may form a cycle. This reads a few bytes of other files, and blocks.

    Raises:
        OSError: if the folder cannot be read.
    """
    os.scandir(folder).close()  # raises OSError; os.walk would ignore it
    found = FoundFiles()
    for path in _walk(folder, found):
        if reason := _skip_reason(path):
            found.skipped.append(SkippedFile(path, reason))
        else:
            found.images.append(path)
    found.images.sort()
    found.skipped.sort()
    return found


def _walk(folder: Path, found: FoundFiles) -> Iterator[Path]:
    """The files; folders that are not entered are added to `found`."""

    def note(error: OSError) -> None:
        found.skipped.append(SkippedFile(Path(error.filename), f"a folder that cannot be read: {error.strerror}"))

    for directory, folders, names in os.walk(folder, onerror=note):
        for name in list(folders):
            path = Path(directory, name)
            reason = "a hidden folder" if name.startswith(".") else "a link to a folder" if path.is_symlink() else None
            if reason:
                folders.remove(name)
                found.skipped.append(SkippedFile(path, reason))
        yield from (Path(directory, name) for name in names)


def _skip_reason(path: Path) -> str | None:
    """The reason to skip a file, or None for an image."""
    if path.name.startswith("."):
        return "a hidden file"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a file that cannot be read: {error.strerror}"
    if not stat.S_ISREG(mode):  # to open a pipe could block for ever
        return "no regular file"
    suffix = path.suffix.lower()
    if suffix in _OTHER_IMAGES:
        return _OTHER_IMAGES[suffix]
    if suffix in _SUFFIXES or _is_image(path):
        return None
    return "no image"


def _is_image(path: Path) -> bool:
    """Whether the first bytes are those of a format that the service may read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
        or head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS)
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES)
    )
