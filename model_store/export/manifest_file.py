"""The text of `manifest.json`, and its replacement in an artifact that exists."""

import os
import tempfile
from pathlib import Path

from service.manifest import MANIFEST_NAME, Manifest


def manifest_text(manifest: Manifest) -> str:
    """Return the content of the file. Members at their defaults are left out: older format versions lack newer ones."""
    return manifest.model_dump_json(indent=2, exclude_defaults=True) + "\n"


def replace_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest of an artifact in one step: a reader sees the complete old or the complete new one.

    Args:
        directory: Folder of the artifact.
        manifest: The new manifest.

    Raises:
        OSError: The file cannot be written; the old manifest is unchanged.
    """
    path = directory / MANIFEST_NAME
    mode = path.stat().st_mode & 0o777
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=f".{MANIFEST_NAME}-")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(manifest_text(manifest))
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
