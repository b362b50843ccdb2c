"""A model under another name: the same files with another manifest."""

from pathlib import Path

from service.manifest import MANIFEST_NAME, load_manifest


def with_name(artifact: Path, directory: Path, name: str) -> Path:
    """Write an artifact into `directory`: links to the files of `artifact`, and its manifest with another name."""
    directory.mkdir()
    for file in artifact.iterdir():
        if file.name != MANIFEST_NAME:
            (directory / file.name).symlink_to(file.resolve())
    changed = load_manifest(artifact).model_copy(update={"name": name})
    (directory / MANIFEST_NAME).write_text(changed.model_dump_json(exclude_defaults=True))
    return directory
