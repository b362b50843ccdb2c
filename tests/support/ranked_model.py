"""A model with another ranking rule: the same graphs with another manifest."""

from pathlib import Path

from service.manifest import MANIFEST_NAME, load_manifest
from service.mask_rules import Ranking


def with_ranking(artifact: Path, directory: Path, ranking: Ranking) -> Path:
    """Write an artifact into `directory`: links to the files of `artifact`, and its manifest with another ranking."""
    directory.mkdir()
    for file in artifact.iterdir():
        if file.name != MANIFEST_NAME:
            (directory / file.name).symlink_to(file.resolve())
    changed = load_manifest(artifact).with_ranking(ranking)
    (directory / MANIFEST_NAME).write_text(changed.model_dump_json(exclude_defaults=True))
    return directory
