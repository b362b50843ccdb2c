"""The folder that an artifact is written to: what may stand there before, and how the artifact gets there."""

import os
import sys
from pathlib import Path

from model_store.catalog import UsageError
from service.manifest import MANIFEST_NAME, ManifestError, load_manifest


def check_target(directory: Path, *, force: bool) -> None:
    """Refuse a place that holds something else than an artifact, since an export replaces all of it.

    It may be absent, an empty folder, or an artifact: a folder with a manifest.json and graphs, whole or damaged.

    Raises:
        UsageError: something else is there, or an artifact and `force` is not set.
    """
    if directory.is_symlink():
        raise UsageError(f"{directory} is a link and is left alone; name the folder that it points to")
    if os.path.ismount(directory):
        raise UsageError(f"{directory} is a mount point, which cannot be replaced; name a folder in it")
    if not directory.exists() or _is_empty(directory):
        return
    if not (directory / MANIFEST_NAME).is_file():
        raise UsageError(f"{directory} exists and is not a model; it is left alone, choose another place")
    if others := _others(directory):
        raise UsageError(f"{directory} holds more than a model ({', '.join(others[:3])}); it is left alone")
    if not force:
        raise UsageError(f"{directory} exists already; --force replaces it")


def put_in_place(folder: Path, directory: Path) -> None:
    """Give a finished artifact its name. An absent or empty `directory` is replaced in one step.

    Args:
        folder: the artifact, in a scratch folder beside `directory`; what stood there before is left in that scratch
            folder, and is back in its place if anything fails.
        directory: see `check_target`.

    Raises:
        UsageError: something that is no artifact has come there.
    """
    check_target(directory, force=True)  # again: the export took a while, and what came meanwhile is not ours
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


def _others(directory: Path) -> list[str]:
    """What an artifact's folder holds besides the artifact."""
    try:
        graphs = {file.file for file in load_manifest(directory).files}
    except ManifestError:  # damaged, or of another version: nobody knows which graphs it listed
        graphs = {path.name for path in directory.glob("*.onnx")}
    return sorted(path.name for path in directory.iterdir() if path.name not in {MANIFEST_NAME, *graphs})
