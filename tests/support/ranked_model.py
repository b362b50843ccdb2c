"""A model with another ranking rule: the same graphs with another manifest."""

from pathlib import Path

from service.manifest import MANIFEST_NAME, Manifest, Ranking, load_manifest


def with_ranking(artifact: Path, directory: Path, ranking: Ranking) -> Path:
    """Write an artifact into `directory`: links to the files of `artifact`, and its manifest with another ranking."""
    directory.mkdir()
    for file in artifact.iterdir():
        if file.name != MANIFEST_NAME:
            (directory / file.name).symlink_to(file.resolve())
    manifest = load_manifest(artifact)
    version = Manifest.lowest_version(
        encoder=manifest.encoder,
        ranking=ranking,
        upsample_mode=manifest.upsample_mode,
        has_granularity=manifest.granularity is not None,
    )
    changed = manifest.model_copy(update={"ranking": ranking, "format_version": version})
    (directory / MANIFEST_NAME).write_text(changed.model_dump_json(exclude_defaults=True))
    return directory
