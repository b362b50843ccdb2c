"""A model under another name, or with other rules: the same files with another manifest."""

from pathlib import Path
from typing import Any

from service.manifest import MANIFEST_NAME, load_manifest


def with_name(artifact: Path, directory: Path, name: str) -> Path:
    """Write an artifact into `directory`: links to the files of `artifact`, and its manifest with another name."""
    return with_changes(artifact, directory, name=name)


def with_changes(artifact: Path, directory: Path, **members: Any) -> Path:
    """Write an artifact into `directory`: links to the files of `artifact`, and its manifest with other members."""
    directory.mkdir()
    for file in artifact.iterdir():
        if file.name != MANIFEST_NAME:
            (directory / file.name).symlink_to(file.resolve())
    changed = load_manifest(artifact).model_copy(update=members)
    (directory / MANIFEST_NAME).write_text(changed.model_dump_json(exclude_defaults=True))
    return directory
