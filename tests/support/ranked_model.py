"""Models with another ranking rule or other defaults of everything mode: the same graphs with another manifest."""

from pathlib import Path

from service.manifest import MANIFEST_NAME, Manifest, load_manifest
from service.mask_rules import EverythingDefaults, Ranking


def with_ranking(artifact: Path, directory: Path, ranking: Ranking) -> Path:
    """Write an artifact into `directory`: links to the files of `artifact`, and its manifest with another ranking."""
    return _with_manifest(artifact, directory, load_manifest(artifact).with_ranking(ranking))


def with_everything(artifact: Path, directory: Path, everything: EverythingDefaults) -> Path:
    """Write an artifact into `directory`: links to the files, and a manifest with other defaults of everything mode."""
    return _with_manifest(artifact, directory, load_manifest(artifact).with_everything(everything))


def _with_manifest(artifact: Path, directory: Path, manifest: Manifest) -> Path:
    directory.mkdir()
    for file in artifact.iterdir():
        if file.name != MANIFEST_NAME:
            (directory / file.name).symlink_to(file.resolve())
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json(exclude_defaults=True))
    return directory
