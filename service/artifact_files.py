"""Comparing the files of an artifact with its manifest."""

import hashlib
from pathlib import Path

from service.manifest import ArtifactFile, Manifest, ManifestError
from service.regular_files import read_regular_file


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare the size and SHA-256 of every file with the manifest.

    Args:
        directory: Folder of the artifact.
        manifest: Manifest of the artifact.

    Raises:
        ManifestError: A file is missing or differs. The message names it and both hashes.
    """
    for file in manifest.files:
        path = directory / file.file
        try:
            data = read_regular_file(path, file.size_bytes, follows_links=True)
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error.strerror or 'it is not a file'})") from error
        found = hashlib.sha256(data).hexdigest()
        if len(data) != file.size_bytes or found != file.sha256:
            raise ManifestError(
                f"{path}: {_length(data, file)} bytes with SHA-256 {found}, "
                f"the manifest promises {file.size_bytes} bytes with {file.sha256}"
            )


def _length(data: bytes, file: ArtifactFile) -> str:
    """Return the length of a file's content, of which at most one byte more than expected is read."""
    return str(len(data)) if len(data) <= file.size_bytes else f"more than {file.size_bytes}"
