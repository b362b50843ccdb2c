"""The folder that an artifact is written to: what may already be there, and how the artifact gets its final name."""

import os
import sys
from pathlib import Path

from model_store.errors import UsageError
from model_store.timings import TIMINGS_NAME
from service.manifest import MANIFEST_NAME, ManifestError, load_manifest


def check_output_folder(directory: Path, *, force: bool) -> None:
    """Refuse a folder that holds something else than an artifact, since an export replaces all of it.

    The folder may be absent, empty, or an artifact: a folder with a manifest.json and graphs, complete or damaged.

    Args:
        directory: Folder of the future artifact.
        force: Whether an artifact that is there may be replaced.

    Raises:
        UsageError: Something else is there, or an artifact and `force` is not set.
    """
    if directory.is_symlink():
        raise UsageError(f"{directory} is a link and is left alone; name the folder that it points to")
    if os.path.ismount(directory):
        raise UsageError(f"{directory} is a mount point, which cannot be replaced; name a folder in it")
    if not directory.exists() or _is_empty(directory):
        return
    if not (directory / MANIFEST_NAME).is_file():
        raise UsageError(f"{directory} exists and is not a model; it is left alone, choose another folder")
    if others := _foreign_files(directory):
        raise UsageError(f"{directory} holds more than a model ({', '.join(others[:3])}); it is left alone")
    if not force:
        raise UsageError(f"{directory} exists already; --force replaces it")


def move_to_output_folder(folder: Path, directory: Path) -> None:
    """Move a finished artifact to its final name. An absent or empty `directory` is replaced in one step.

    Args:
        folder: Artifact in a scratch folder beside `directory`. An earlier artifact is moved into that scratch folder,
            and moved back if anything fails.
        directory: Final folder, see `check_output_folder`.

    Raises:
        UsageError: Meanwhile something that is no artifact has appeared under that name.
    """
    check_output_folder(directory, force=True)  # again, since an export takes a while
    if not directory.exists() or (_is_empty(directory) and sys.platform != "win32"):
        folder.replace(directory)  # POSIX renames over an empty folder, and refuses one that no longer is
        return
    old = folder.parent / "old"
    directory.rename(old)
    try:
        folder.rename(directory)
    except BaseException:
        old.rename(directory)
        raise


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


def _foreign_files(directory: Path) -> list[str]:
    """Return the names in an artifact's folder that are not part of the artifact."""
    try:
        own = {file.file for file in load_manifest(directory).files}
    except ManifestError:  # damaged, or of another version: the list of its files cannot be read
        own = {path.name for path in directory.glob("*.onnx")}
    return sorted(path.name for path in directory.iterdir() if path.name not in {MANIFEST_NAME, TIMINGS_NAME, *own})
